//! A second server on the same data, or the same port.

use serde_json::json;

use crate::server::Place;
use crate::witness::Witness;

#[test]
fn a_second_server_on_the_same_data_or_port_says_so_and_leaves_the_first_alone() {
    let place = Place::new();
    let witness = Witness::new(&place);
    let mut first = place.start();
    let ticking = first.api().create(json!({"name": "ticking", "schedule": "* * * * * *", "command": witness.command("w end")}));
    witness.wait_starts(&ticking, 1);

    let mut same_data = place.launch(&[], &[]);
    let status = same_data.wait_exit();
    assert_eq!(status.code(), Some(1), "{:?}", same_data.log());
    let log = same_data.log().join("\n");
    assert!(log.contains("another chrono-flow works in") && log.contains("/data") && log.contains("--data-dir"), "{log}");

    let elsewhere = Place::new();
    let mut same_port = elsewhere.launch(&["--http-listen", first.address()], &[]);
    assert_eq!(same_port.wait_exit().code(), Some(1), "{:?}", same_port.log());
    let log = same_port.log().join("\n");
    assert!(log.contains(first.address()) && log.contains("in use"), "{log}");
    for log in [same_data.log(), same_port.log()] {
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:?}");
    }

    assert!(!first.has_exited());
    witness.wait_starts(&ticking, witness.starts_of(&ticking).len() + 2);
    assert_eq!(first.api().get("/jobs").expect(200)[0]["name"], "ticking");
    first.stop();
}
