//! What a run finds when it starts, and what is refused.

use chrono_flow::agent::guardian::{End, SpawnError};

use crate::support::{Fixture, in_ms, soon, stat_field};

const ENOENT: i32 = 2;
const ENOTDIR: i32 = 20;
const EINVAL: i32 = 22;
const COMMAND_BYTES_MAX: usize = 256 * 1024;

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let mut fixture = Fixture::new();
    let pairs = [("PATH", "/usr/bin:/bin"), ("EMPTY", ""), ("WITH", "a=b\nc"), ("ünï", "ö")];
    let running = fixture
        .start_with("cat /proc/$$/environ", |spawn| spawn.env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
        .await;
    let expected: String = pairs.iter().map(|(name, value)| format!("{name}={value}\0")).collect();
    assert_eq!(fixture.finish(running).await.stdout, expected);
}

#[tokio::test]
async fn the_guardian_itself_has_no_environment_to_leak() {
    let fixture = Fixture::new();
    assert_eq!(std::fs::read_to_string(format!("/proc/{}/environ", fixture.pid)).unwrap(), "");
}

#[tokio::test]
async fn only_the_standard_descriptors_are_open_and_input_is_empty() {
    // As if the agent's starter had left it a descriptor that survives an exec.
    let inherited = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let mut fixture = Fixture::new();
    let outcome = fixture.run("ls /proc/$$/fd; readlink /proc/$$/fd/0; cat").await;
    assert_eq!(outcome.stdout, "0\n1\n2\n/dev/null\n");
}

#[tokio::test]
async fn output_and_error_are_apart() {
    let outcome = Fixture::new().run("echo out; echo err >&2").await;
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("out\n", "err\n"));
}

#[tokio::test]
async fn no_signal_is_blocked_or_ignored() {
    let mut fixture = Fixture::new();
    let outcome = fixture.run("exec cat /proc/self/status").await;
    let mask = |name| {
        let line = outcome.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    // The C library starts every process with its two internal signals, 32 and 33, ignored.
    let internal = 0b11 << 31;
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !internal, mask("SigCgt:")), (0, 0, 0), "{}", outcome.stdout);
    assert_eq!(fixture.run("kill -s PIPE $$").await.end, End::Signal(13));
}

#[tokio::test]
async fn a_run_leads_its_own_group_and_its_start_time_is_the_kernels() {
    let mut fixture = Fixture::new();
    for _ in 0..20 {
        let running = fixture.start("exec sleep 1000").await;
        let pid = running.spawned.pid;
        assert_eq!(stat_field(pid, 5), Some(pid.to_string()));
        assert_eq!(stat_field(pid, 22), Some(running.spawned.start_time_ticks.to_string()));
        fixture.guardian.kill(running.token);
        fixture.finish(running).await;
    }
}

#[tokio::test]
async fn the_working_directory_is_the_one_asked_for() {
    let mut fixture = Fixture::new();
    let running = fixture.start_with("pwd", |spawn| spawn.cwd = Some("/usr".to_owned())).await;
    assert_eq!(fixture.finish(running).await.stdout, "/usr\n");
}

#[tokio::test]
async fn a_working_directory_that_is_missing_is_named_and_nothing_runs() {
    let mut fixture = Fixture::new();
    for (cwd, expected) in [("/no/such/directory", ENOENT), ("/etc/passwd", ENOTDIR)] {
        let error = fixture.refusal("touch /tmp/never", |spawn| spawn.cwd = Some(cwd.to_owned())).await;
        let SpawnError::Io { errno, text } = error else { panic!("{error}") };
        assert_eq!(errno, expected);
        assert!(text.contains(cwd), "{text}");
    }
    assert_eq!(fixture.run(":").await.end, End::Code(0), "and the guardian goes on");
}

#[tokio::test]
async fn a_command_of_256_kib_runs_like_a_short_one() {
    let mut fixture = Fixture::new();
    let (head, tail) = ("# é\nset -- \"$#\" '", "'; echo \"$1 $0 ${#2}\"; exit 9");
    for length in [100 * 1024, 100 * 1024 + 1, 131_071, 131_072, COMMAND_BYTES_MAX] {
        let filler = "x".repeat(length - head.len() - tail.len());
        let outcome = fixture.run(&format!("{head}{filler}{tail}")).await;
        assert_eq!((outcome.end, outcome.stdout), (End::Code(9), format!("0 sh {}\n", filler.len())), "{length}: {}", outcome.stderr);
    }
}

#[tokio::test]
async fn a_command_that_begins_with_a_dash_is_no_option() {
    let outcome = Fixture::new().run("-x; exit 6").await;
    assert_eq!(outcome.end, End::Code(6));
    assert!(outcome.stderr.contains("-x"), "{}", outcome.stderr);
}

#[tokio::test]
async fn what_no_process_can_be_given_is_refused() {
    let mut fixture = Fixture::new();
    let error = fixture.refusal("echo \0", |_| {}).await;
    assert!(matches!(error, SpawnError::Io { errno: EINVAL, .. }), "{error}");
    let error = fixture.refusal(":", |spawn| spawn.env.push(("A=B".to_owned(), String::new()))).await;
    assert!(matches!(error, SpawnError::Io { errno: EINVAL, .. }), "{error}");
    let error = fixture.refusal(&"x".repeat(3 * COMMAND_BYTES_MAX), |_| {}).await;
    assert!(matches!(error, SpawnError::TooLarge), "{error}");
    assert_eq!(fixture.run(":").await.end, End::Code(0));
}

#[tokio::test]
async fn nothing_starts_without_a_permit_or_after_it() {
    let mut fixture = Fixture::without_lease();
    assert!(matches!(fixture.refusal(":", |_| {}).await, SpawnError::PermitOver));
    fixture.guardian.set_lease(in_ms(600_000), in_ms(600_000));
    fixture.run(":").await;
    fixture.guardian.set_lease(in_ms(0) - 1, u64::MAX);
    assert!(matches!(fixture.refusal(":", |_| {}).await, SpawnError::PermitOver));
    fixture.guardian.set_lease(u64::MAX, in_ms(0) - 1);
    assert!(matches!(fixture.refusal(":", |_| {}).await, SpawnError::PermitOver), "no permit outlasts the lease");
}

#[tokio::test]
async fn nothing_starts_after_its_latest_instant() {
    let mut fixture = Fixture::new();
    let error = fixture.refusal(":", |spawn| spawn.not_after_boot_ms = in_ms(0) - 1).await;
    assert!(matches!(error, SpawnError::TooLate), "{error}");
    let running = fixture.start_with(":", |spawn| spawn.not_after_boot_ms = in_ms(600_000)).await;
    fixture.finish(running).await;
}

#[tokio::test]
async fn a_revoke_before_the_spawn_wins() {
    let mut fixture = Fixture::new();
    let (spawn, _stdout, _stderr) = fixture.request("touch never");
    let token = spawn.token;
    let (prevented, spawned) = soon(async { tokio::join!(biased; fixture.guardian.revoke(token), fixture.guardian.spawn(spawn)) }).await;
    assert!(prevented);
    assert!(matches!(spawned, Err(SpawnError::Revoked)));
    fixture.run(":").await;
    assert!(!fixture.path("never").exists());
}

#[tokio::test]
async fn a_revoke_after_the_spawn_loses_and_says_so() {
    let mut fixture = Fixture::new();
    let (spawn, stdout, stderr) = fixture.request(":");
    let token = spawn.token;
    let (spawned, prevented) = soon(async { tokio::join!(biased; fixture.guardian.spawn(spawn), fixture.guardian.revoke(token)) }).await;
    assert!(!prevented);
    let running = crate::support::Running { token, spawned: spawned.unwrap(), stdout, stderr };
    fixture.finish(running).await;
    assert!(!fixture.guardian.revoke(token).await, "nor is it forgotten when the run has ended");
}

#[tokio::test]
async fn a_token_is_used_once() {
    let mut fixture = Fixture::new();
    let running = fixture.start("exec sleep 1000").await;
    let token = running.token;
    assert!(matches!(fixture.refusal(":", |spawn| spawn.token = token).await, SpawnError::TokenInUse));
    fixture.guardian.kill(token);
    fixture.finish(running).await;
    assert!(matches!(fixture.refusal(":", |spawn| spawn.token = token).await, SpawnError::TokenInUse));
}

#[tokio::test]
async fn what_was_started_for_nobody_is_killed() {
    let mut fixture = Fixture::new();
    let (spawn, _stdout, _stderr) = fixture.request("exec sleep 1000");
    let token = spawn.token;
    let mut starting = Box::pin(fixture.guardian.spawn(spawn));
    // Polled once, the order is sent; dropped, nobody waits for the answer.
    assert!(futures::poll!(starting.as_mut()).is_pending());
    drop(starting);
    assert_eq!(fixture.ended(token).await.0, End::Signal(9));
}
