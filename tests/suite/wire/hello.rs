use shared::wire::hello::{Hello, HelloReply, PROTOCOL};
use shared::wire::refusal::{Refusal, RefusalKind};

use super::{check, decode, encode, hex, hostile};

#[test]
fn hello_keeps_its_layout_for_ever() {
    let hello = Hello { protocol: 1, version: "0.1.0".to_owned(), instance: Some("/s/d.db".to_owned()) };
    let bytes = encode(&hello);
    assert_eq!(hex(&bytes), "0105302e312e3001072f732f642e6462");
    assert_eq!(decode::<Hello, 4096>(&bytes).expect("a hello"), hello);
    hostile::<Hello>(&bytes);
    let plain = Hello { protocol: 1, version: "0.1.0".to_owned(), instance: None };
    assert_eq!(hex(&encode(&plain)), "0105302e312e3000");
}

#[test]
fn the_protocol_of_these_bytes() {
    assert_eq!(PROTOCOL, 2);
}

#[test]
fn hello_reply() {
    let hello = Hello { protocol: 1, version: "0.1.0".to_owned(), instance: None };
    let refusal = Refusal::new(RefusalKind::VersionMismatch, "no");
    check(&[(HelloReply::Welcome(hello), "000105302e312e3000"), (HelloReply::Refused(refusal), "0100026e6f")]);
}

#[test]
fn refusal_kind() {
    use RefusalKind::*;
    check(&[
        (VersionMismatch, "00"),
        (InstanceMismatch, "01"),
        (Invalid, "02"),
        (TooLarge, "03"),
        (Busy, "04"),
        (Unavailable, "05"),
        (Storage, "06"),
        (Internal, "07"),
        (PluginUnknown, "08"),
        (CommandUnknown, "09"),
        (WriteScope, "0a"),
        (PayloadNotObject, "0b"),
        (JobUnknown, "0c"),
        (TooManyWaiting, "0d"),
        (AdminToken, "0e"),
        (VaultAbsent, "0f"),
        (InvalidName, "10"),
        (InvalidPrincipalKind, "11"),
        (InvalidPattern, "12"),
        (InvalidScope, "13"),
        (PrincipalExists, "14"),
        (PrincipalUnknown, "15"),
        (PrincipalInactive, "16"),
        (SecretUnknown, "17"),
        (SecretRevoked, "18"),
        (Reserved, "19"),
        (ValueImmutable, "1a"),
        (ValueEmpty, "1b"),
        (ValueTooLarge, "1c"),
        (ModifiedExternally, "1d"),
        (VaultRequired, "1e"),
        (FingerprintMismatch, "1f"),
        (SharedAccount, "20"),
        (Pipe, "21"),
        (DeliveryUnknown, "22"),
        (TooManyDeliveries, "23"),
        (UnsafePath, "24"),
        (JobNotFinished, "25"),
        (JobFinished, "26"),
        (Duplicate, "27"),
        (ScheduleUnknown, "28"),
    ]);
}
