use shared::wire::launch::{Start, Started};

use super::check;

#[test]
fn start() {
    let instance = || "/s/d.db".to_owned();
    check(&[
        (Start::Agent { instance: instance() }, "00072f732f642e6462"),
        (Start::Executor { instance: instance() }, "01072f732f642e6462"),
        (Start::Front { instance: instance() }, "02072f732f642e6462"),
        (Start::OneShot, "03"),
    ]);
}

#[test]
fn started() {
    check(&[(Started::Ready, "00"), (Started::Failed { text: "no".to_owned() }, "01026e6f")]);
}
