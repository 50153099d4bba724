//! Scrubbing over the executor's line, inline and by memfd.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use shared::wire::vault::Request;

use super::*;
use crate::bench::{Bench, VALUE, asked, delivery, pipe, refusal};
use crate::deliver::deliver;
use crate::permit::Role;

fn delivered() -> Bench {
    let bench = Bench::new();
    let (_read, write) = pipe();
    let [manifest, entrypoint] = bench.files();
    deliver(&bench.agent, &delivery(7, asked("fabric")), vec![write, manifest, entrypoint]).expect("delivered");
    bench
}

fn hit(count: u32) -> Vec<Hit> {
    vec![Hit { name: "api".to_owned(), count }]
}

#[test]
fn values_go_out_of_an_inline_text() {
    let bench = delivered();
    let mut executor = bench.connect(Role::Executor);
    let mut scrub = |text: &str| {
        let request = Request::Scrub { delivery_id: 7, text: Some(text.as_bytes().to_vec()) };
        match executor.reply(request) {
            Reply::Scrubbed { text: Some(text), hits } => (String::from_utf8(text).expect("UTF-8"), hits),
            other => panic!("{other:?}"),
        }
    };
    let text = format!("{{\"status\":\"ok\",\"result\":\"{VALUE}\"}}{VALUE}");
    assert_eq!(scrub(&text), ("{\"status\":\"ok\",\"result\":\"[secret:api]\"}[secret:api]".to_owned(), hit(2)));
    assert_eq!(scrub("clean"), ("clean".to_owned(), Vec::new()));
}

#[test]
fn a_roll_in_between_changes_nothing_and_a_close_forgets() {
    let bench = delivered();
    let mut executor = bench.connect(Role::Executor);
    let fact = crate::journal::Fact { op: "roll", actor: "cli", ..Default::default() };
    let fresh = crate::document::Value::new(crate::random::mint());
    let roll = |document: &mut crate::document::Document| {
        document.secrets.get_mut("api").expect("there").value = fresh.clone();
        Ok(())
    };
    bench.agent.change(&fact, roll, |()| String::new()).expect("rolled");
    let ask = || Request::Scrub { delivery_id: 7, text: Some(VALUE.as_bytes().to_vec()) };
    assert!(matches!(executor.reply(ask()), Reply::Scrubbed { hits, .. } if hits == hit(1)));
    executor.send(&shared::wire::frame::Envelope { call: 0, body: Request::CloseDelivery { delivery_id: 7 } }, &[]);
    assert_eq!(executor.refused(ask()).kind, RefusalKind::DeliveryUnknown);
}

#[test]
fn long_texts_come_and_go_as_sealed_memfds() {
    let bench = delivered();
    let mut executor = bench.connect(Role::Executor);
    let filler = "x".repeat(INLINE_MAX);
    let mut scrub = |text: &str| {
        let memfd = seal(text.as_bytes()).expect("memfd");
        executor.ask(Request::Scrub { delivery_id: 7, text: None }, &[memfd]).expect("an answer")
    };
    let (reply, mut fds) = scrub(&format!("{filler}{VALUE}{filler}"));
    assert!(matches!(reply, Reply::Scrubbed { text: None, hits } if hits == hit(1)));
    let text = read_sealed(&fds.pop().expect("a descriptor")).expect("sealed");
    assert_eq!(text, format!("{filler}[secret:api]{filler}").into_bytes());
    let (reply, mut fds) = scrub(&filler);
    assert!(matches!(reply, Reply::Scrubbed { text: None, hits } if hits.is_empty()));
    assert_eq!(read_sealed(&fds.pop().expect("the same one")).expect("sealed"), filler.as_bytes());
    let (reply, fds) = scrub(VALUE);
    assert!(matches!(reply, Reply::Scrubbed { text: Some(text), .. } if text == b"[secret:api]" && fds.is_empty()));
}

#[test]
fn what_could_still_change_is_not_read() {
    let bench = delivered();
    let mut executor = bench.connect(Role::Executor);
    let mut refused = |text: Option<Vec<u8>>, fds: Vec<OwnedFd>| {
        refusal(executor.ask(Request::Scrub { delivery_id: 7, text }, &fds).expect("an answer").0)
    };
    let unsealed = File::from(rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).expect("memfd"));
    unsealed.write_all_at(b"text", 0).expect("written");
    assert_eq!(refused(None, vec![unsealed.into()]).message, "text's descriptor is not sealed");
    let file = File::open("/proc/self/exe").expect("opens");
    assert_eq!(refused(None, vec![file.into()]).message, "text's descriptor is no memfd");
    let wrong = "a text is either in the frame or in one descriptor";
    assert_eq!(refused(None, vec![]).message, wrong);
    assert_eq!(refused(Some(vec![]), vec![seal(b"x").expect("memfd")]).message, wrong);
    assert_eq!(refused(None, vec![seal(b"x").expect("memfd"), seal(b"x").expect("memfd")]).message, wrong);
}
