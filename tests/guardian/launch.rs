//! Starting a guardian.

use std::path::PathBuf;

use chrono_flow::agent::guardian::{Guardian, GuardianError, Launch};

use crate::support::{Fixture, launch_on, stat_field};

#[tokio::test]
async fn a_guardian_is_named_and_has_a_session_of_its_own() {
    let fixture = Fixture::new();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", fixture.pid)).unwrap();
    assert_eq!(read("comm"), "chrono-guardian\n");
    assert!(read("cmdline").starts_with("chrono-flow\0guardian\0"));
    assert_eq!(stat_field(fixture.pid, 6), Some(fixture.pid.to_string()), "the leader of its session");
    assert_eq!(std::fs::read_to_string(fixture.path("guardian.lock")).unwrap().trim(), fixture.pid.to_string());
}

#[test]
fn an_executable_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch { exe: PathBuf::from("/no/such/executable"), data_dir: dir.path().to_owned() };
    let error = Guardian::launch(&launch).err().unwrap();
    assert!(matches!(error, GuardianError::Start { .. }) && error.to_string().contains("/no/such/executable"), "{error}");
}

#[test]
fn a_data_directory_that_is_missing_is_no_guardian() {
    let error = Guardian::launch(&launch_on(&PathBuf::from("/no/such/directory"))).err().unwrap();
    assert!(matches!(error, GuardianError::Ended { .. }), "{error}");
}

#[test]
fn an_executable_that_is_no_guardian_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch { exe: PathBuf::from("/bin/true"), data_dir: dir.path().to_owned() };
    assert!(matches!(Guardian::launch(&launch).err().unwrap(), GuardianError::Ended { .. }));
}

#[test]
fn a_guardian_that_is_not_attached_ends_when_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    drop(Guardian::launch(&launch_on(dir.path())).unwrap());
    // The next one waits for the lock, and gets it.
    drop(Guardian::launch(&launch_on(dir.path())).unwrap());
}

#[test]
fn used_by_hand_it_says_that_it_is_not_for_use_by_hand() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_chrono-flow")).arg("guardian").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("not for use by hand"));
}
