//! Both framings agree: `shared`'s over Read and Write, and tokio-util's codec as the async ends
//! set it from the same constants.

use shared::wire::frame::{self, AGENT_MAX, EXECUTOR_MAX, Envelope, FrameError, HELLO_MAX, PREFIX};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// As the async ends set it.
fn codec(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().little_endian().length_field_length(PREFIX).max_frame_length(limit).new_codec()
}

#[test]
fn what_one_framing_writes_the_other_reads() {
    for length in [0, 1, 250, 251, 65_535, 65_536, 200_000] {
        let sent = Envelope { call: 7, body: "x".repeat(length) };
        let by_hand = frame::to_frame(&sent, AGENT_MAX).expect("fits");

        let mut bytes = BytesMut::from(by_hand.as_slice());
        let body = codec(AGENT_MAX).decode(&mut bytes).expect("a frame").expect("whole");
        assert_eq!(body[..], by_hand[PREFIX..]);
        assert!(bytes.is_empty());

        let mut bytes = BytesMut::new();
        codec(AGENT_MAX).encode(body.freeze(), &mut bytes).expect("fits");
        assert_eq!(bytes[..], by_hand);
        let read = frame::read::<Envelope<String>, AGENT_MAX>(&mut &bytes[..]).expect("a frame").expect("whole");
        assert_eq!(read, sent);
    }
}

#[test]
fn both_framings_have_the_same_limit() {
    for limit in [HELLO_MAX, AGENT_MAX, EXECUTOR_MAX] {
        let prefix = |length: usize| u32::try_from(length).expect("a length").to_le_bytes();
        assert!(codec(limit).decode(&mut BytesMut::from(&prefix(limit)[..])).expect("may come yet").is_none());
        assert!(codec(limit).decode(&mut BytesMut::from(&prefix(limit + 1)[..])).is_err());
    }
    let read = |length: usize| {
        let prefix = u32::try_from(length).expect("a length").to_le_bytes();
        frame::read::<String, AGENT_MAX>(&mut &prefix[..])
    };
    assert!(matches!(read(AGENT_MAX), Err(FrameError::Cut)));
    assert!(matches!(read(AGENT_MAX + 1), Err(FrameError::TooLong { .. })));
    assert!(matches!(read(u32::MAX as usize), Err(FrameError::TooLong { .. })));
}

#[test]
fn a_frame_in_pieces_waits_and_a_cut_one_is_no_frame() {
    let whole = frame::to_frame(&"in pieces", HELLO_MAX).expect("fits");
    let mut codec = codec(HELLO_MAX);
    let mut bytes = BytesMut::new();
    for byte in &whole[..whole.len() - 1] {
        bytes.extend_from_slice(&[*byte]);
        assert!(codec.decode(&mut bytes).expect("may come yet").is_none());
    }
    assert!(codec.decode_eof(&mut bytes).is_err());
    for end in 1..whole.len() {
        let cut = frame::read::<String, HELLO_MAX>(&mut &whole[..end]);
        assert!(matches!(cut, Err(FrameError::Cut)), "cut at {end}");
    }
}
