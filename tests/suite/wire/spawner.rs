use shared::time::Millis;
use shared::wire::refusal::{Refusal, RefusalKind};
use shared::wire::spawner::{Account, AgentLine, Deliver, Exit, Reply, Request, RunRefusal, Spawn, Step};

use super::{check, id};

#[test]
fn request() {
    let hello = |agent| Request::Hello { protocol: 1, version: "0.1.0".to_owned(), move_to: Some((990, 991)), agent };
    let account = Account { name: id("default"), uid: 1001, gid: 1002, credentialed: false };
    let spawn = Spawn {
        run: 1,
        job_id: id("0198-a"),
        plugin: id("echo"),
        manifest: "/p/m".to_owned(),
        entrypoint: "/p/e".to_owned(),
        account: Some(id("default")),
        env: vec!["A=b".to_owned()],
        cwd: Some("/c".to_owned()),
        deadline: Millis(60_000),
        deliver: Some(Deliver {
            delivery_id: 2,
            uses: String::new(),
            principal: "echo".to_owned(),
            requires_vault: true,
        }),
    };
    check(&[
        (hello(AgentLine::Path("/s".to_owned())), "000105302e312e3001fbde03fbdf0301022f73"),
        (Request::Configure { accounts: vec![account] }, "01010764656661756c74fbe903fbea0300"),
        (
            Request::Spawn(spawn),
            "020106303139382d61046563686f042f702f6d042f702f65010764656661756c740103413d6201022f63fb60ea010200046563686f01",
        ),
        (Request::End { run: 1, grace: Millis(5000) }, "0301fb8813"),
    ]);
}

#[test]
fn agent_line() {
    check(&[(AgentLine::Descriptor, "00"), (AgentLine::Path("/s".to_owned()), "01022f73")]);
}

#[test]
fn reply() {
    check(&[
        (Reply::Hello { protocol: 1, version: "0.1.0".to_owned() }, "000105302e312e30"),
        (Reply::Ready { enforcing: true, cgroup: false, landlock: true }, "01010001"),
        (Reply::ConfigureRefused { text: "no".to_owned() }, "02026e6f"),
        (Reply::Spawned { run: 1, pid: 70_000, prefixed: true, secret_names_count: 2 }, "0301fc701101000102"),
        (Reply::RunRefused { run: 1, refusal: RunRefusal::AgentUnavailable }, "040100"),
        (Reply::Ended { run: 1, exit: Exit::Code(0), timed_out: false, leftovers: 3 }, "050100000003"),
    ]);
}

#[test]
fn run_refusal() {
    check(&[
        (RunRefusal::AgentUnavailable, "00"),
        (RunRefusal::Denied(Refusal::new(RefusalKind::UnsafePath, "no")), "0124026e6f"),
        (RunRefusal::Pipe { text: "no".to_owned() }, "02026e6f"),
        (RunRefusal::NotConfigured, "03"),
        (RunRefusal::UnknownAccount, "04"),
        (RunRefusal::Start { text: "no".to_owned() }, "05026e6f"),
    ]);
}

#[test]
fn exit() {
    check(&[
        (Exit::Code(-1), "0001"),
        (Exit::Signal(9), "0112"),
        (Exit::StartFailed { step: Step::Exec, errno: 8 }, "020d10"),
    ]);
}

#[test]
fn step() {
    use Step::*;
    check(&[
        (Group, "00"),
        (Cgroup, "01"),
        (Streams, "02"),
        (Descriptors, "03"),
        (Signals, "04"),
        (Limits, "05"),
        (Gid, "06"),
        (Uid, "07"),
        (Capabilities, "08"),
        (ParentDeath, "09"),
        (NoNewPrivs, "0a"),
        (Landlock, "0b"),
        (Directory, "0c"),
        (Exec, "0d"),
    ]);
}
