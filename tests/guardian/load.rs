//! Many runs.

use std::collections::HashMap;

use chrono_flow::agent::guardian::{End, Notice, Spawn};
use futures::StreamExt;

use crate::support::{Fixture, PATIENCE, children_of, open_files_of, soon, until};

const RUNS: usize = 10_000;
/// More than the client lets through at a time.
const AT_A_TIME: usize = 200;

fn request(token: usize) -> Spawn {
    let null = || std::fs::File::options().write(true).open("/dev/null").unwrap().into();
    Spawn {
        token: token as u64,
        command: format!("exit {}", token % 7),
        env: Vec::new(),
        cwd: None,
        stdout: null(),
        stderr: null(),
        not_after_boot_ms: u64::MAX,
        kill_on_lease_end: token.is_multiple_of(2),
        kill_grace_ms: 1000,
    }
}

#[tokio::test]
async fn ten_thousand_spawns_are_answered_and_leave_neither_zombies_nor_descriptors() {
    let mut fixture = Fixture::new();
    fixture.run(":").await;
    let open_before = open_files_of(fixture.pid);
    let open_here_before = open_files_of(std::process::id());
    let guardian = fixture.guardian.clone();
    let tokens = 1_000_000..1_000_000 + RUNS;
    let spawning = futures::stream::iter(tokens.clone()).for_each_concurrent(AT_A_TIME, |token| {
        let guardian = &guardian;
        async move {
            guardian.spawn(request(token)).await.unwrap();
        }
    });
    let mut ends = HashMap::new();
    let mut gone = 0;
    let noticing = async {
        while gone < RUNS {
            match fixture.notices.recv().await.unwrap() {
                Notice::Exited { token, end, .. } => assert_eq!(ends.insert(token as usize, end), None),
                Notice::GroupGone { token } => {
                    assert!(ends.contains_key(&(token as usize)), "its main process ends first");
                    gone += 1;
                }
                Notice::GuardianLost => panic!("lost"),
            }
        }
    };
    tokio::time::timeout(PATIENCE * 4, async { tokio::join!(spawning, noticing) }).await.unwrap();
    assert_eq!(ends.len(), RUNS);
    assert!(tokens.clone().all(|token| ends[&token] == End::Code((token % 7) as i32)));
    let pid = fixture.pid;
    until("no zombies are left", || children_of(pid).is_empty()).await;
    assert_eq!(open_files_of(pid), open_before);
    // Other tests may share this process.
    assert!(open_files_of(std::process::id()) < open_here_before + RUNS / 2);
}

#[tokio::test]
async fn a_reader_of_notices_that_lags_delays_no_answer_and_misses_nothing() {
    const UNREAD: usize = 1_500;
    let mut fixture = Fixture::new();
    for token in 1..=UNREAD {
        soon(fixture.guardian.spawn(request(token))).await.unwrap();
    }
    assert!(!soon(fixture.guardian.revoke(1)).await);
    let (mut exited, mut gone) = (0, 0);
    while gone < UNREAD {
        match fixture.notice().await {
            Notice::Exited { .. } => exited += 1,
            Notice::GroupGone { .. } => gone += 1,
            Notice::GuardianLost => panic!("lost"),
        }
    }
    assert_eq!(exited, UNREAD);
}
