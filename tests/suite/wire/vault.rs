use shared::secret::Secret;
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::vault::{
    Attestation, AttestationOutcome, Delivery, Hit, Issue, PreparedPlugin, PrincipalEntry, Reply, Request, SecretEntry,
    Status, TokenDigest, VaultState,
};

use super::{check, decode, encode, id};

fn attestation() -> Attestation {
    Attestation {
        plugin: id("echo"),
        uses: "base".to_owned(),
        principal: "p".to_owned(),
        requires_vault: true,
        account: Some((1001, 1002)),
    }
}

fn token() -> Secret {
    Secret::new(b"tok".to_vec())
}

#[test]
fn request() {
    let plugin = PreparedPlugin {
        plugin: id("echo"),
        principal: "p".to_owned(),
        account: Some(("default".to_owned(), 1001)),
        shared_account: false,
    };
    let set = Request::SetSecret {
        token: token(),
        name: "s".to_owned(),
        value: Secret::new(vec![0, 255]),
        pattern: Some("manual".to_owned()),
        principals: Some(vec!["p".to_owned()]),
        scope: None,
    };
    let register = Request::RegisterPrincipal { token: token(), name: "p".to_owned(), kind: "plugin".to_owned() };
    check(&[
        (Request::Status, "00"),
        (
            Request::Prepare { token_refs: vec!["t".to_owned()], plugins: vec![plugin] },
            "0101017401046563686f0170010764656661756c74fbe90300",
        ),
        (Request::Commit, "02"),
        (Request::Discard, "03"),
        (
            Request::Deliver(Delivery { delivery_id: 2, job_id: id("0198-a"), attestation: attestation() }),
            "040206303139382d61046563686f046261736501700101fbe903fbea03",
        ),
        (Request::Attest(attestation()), "05046563686f046261736501700101fbe903fbea03"),
        (Request::Scrub { delivery_id: 2, text: Some(b"t".to_vec()) }, "0602010174"),
        (Request::CloseDelivery { delivery_id: 2 }, "0702"),
        (Request::TokenExposed, "08"),
        (register, "0903746f6b017006706c7567696e"),
        (Request::RevokePrincipal { token: token(), name: "p".to_owned() }, "0a03746f6b0170"),
        (set, "0b03746f6b01730200ff01066d616e75616c0101017000"),
        (Request::List { token: token() }, "0c03746f6b"),
        (
            Request::Fingerprint { token: token(), attestation: attestation() },
            "0d03746f6b046563686f046261736501700101fbe903fbea03",
        ),
    ]);
}

#[test]
fn reply() {
    let status = Status {
        vault: VaultState::Open,
        generation: 41,
        memory_locked: true,
        key_source: "k".to_owned(),
        recovery_recipients: vec!["r".to_owned()],
        principals: vec!["p".to_owned()],
    };
    let secret = SecretEntry {
        name: "s".to_owned(),
        status: "active".to_owned(),
        pattern: "manual".to_owned(),
        scope: "plugin".to_owned(),
        roll_count: 1,
        principals: vec!["p".to_owned()],
        created_at: "c".to_owned(),
        updated_at: "u".to_owned(),
    };
    let listing = Reply::Listing {
        secrets: vec![secret],
        principals: vec![PrincipalEntry {
            name: "p".to_owned(),
            kind: "plugin".to_owned(),
            status: "active".to_owned(),
        }],
        issues: vec![Issue { kind: "k".to_owned(), target: "t".to_owned(), detail: "d".to_owned() }],
    };
    let prepared = Reply::Prepared {
        principals: vec!["p".to_owned()],
        token_key: [7; 32],
        tokens: vec![TokenDigest::Missing],
        admin_token: Some([9; 32]),
    };
    let fingerprint = Reply::Fingerprint {
        manifest_hash: "m".to_owned(),
        entrypoint_hash: "e".to_owned(),
        binding_mac: "b".to_owned(),
    };
    check(&[
        (Reply::Refused(Refusal::new(RefusalKind::AdminToken, "no")), "000e026e6f"),
        (Reply::Done, "01"),
        (Reply::Status(status), "02012901016b010172010170"),
        (
            prepared,
            "0301017007070707070707070707070707070707070707070707070707070707070707070101010909090909090909090909090909090909090909090909090909090909090909",
        ),
        (Reply::Delivered { secret_names_count: 2 }, "0402"),
        (Reply::Attested(AttestationOutcome::Match), "0500"),
        (Reply::Scrubbed { text: None, hits: vec![Hit { name: "s".to_owned(), count: 2 }] }, "060001017302"),
        (
            listing,
            "0701017306616374697665066d616e75616c06706c7567696e010101700163017501017006706c7567696e0661637469766501016b01740164",
        ),
        (fingerprint, "08016d01650162"),
        (Reply::PrincipalsChanged { principals: vec!["p".to_owned()] }, "09010170"),
    ]);
}

#[test]
fn attestation_outcome() {
    use AttestationOutcome::*;
    check(&[(Match, "00"), (Mismatch, "01"), (Unrecorded, "02")]);
}

#[test]
fn vault_state() {
    check(&[(VaultState::Absent, "00"), (VaultState::Open, "01")]);
}

#[test]
fn token_digest() {
    check(&[
        (TokenDigest::Digest([9; 32]), "000909090909090909090909090909090909090909090909090909090909090909"),
        (TokenDigest::Missing, "01"),
        (TokenDigest::Empty, "02"),
    ]);
}

#[test]
fn a_length_that_claims_more_than_the_limit_is_refused_before_it_is_believed() {
    let honest = encode(&Request::Scrub { delivery_id: 2, text: Some(b"t".to_vec()) });
    // The last two bytes are the length and the one byte of the text.
    let head = &honest[..honest.len() - 2];
    for length in [[252, 255, 255, 255, 127].as_slice(), &[253, 255, 255, 255, 255, 255, 255, 255, 255]] {
        assert!(decode::<Request, 4096>(&[head, length, b"t"].concat()).is_err());
    }
}
