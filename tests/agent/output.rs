//! Output while a run goes on, and as long as the store does not have it.

use chrono_flow::model::Stream;
use chrono_flow::rpc::wire::{ReadOutput, Refusal};

use crate::support::{World, context, stage, stage_in, text, until};

#[tokio::test]
async fn output_is_read_as_it_comes_from_any_offset_and_a_reader_waits_for_more() {
    let world = World::new().await;
    let go = world.path("go");
    let stage = stage(&format!("echo one; while [ ! -e {} ]; do sleep 0.01; done; echo two; exec sleep 300", go.display()));
    let run = stage.run;
    world.stage(vec![stage]).await;
    world.read_until(run, |text| text == "one\n").await;
    let middle = world.read(run, 1, 2, 0).await;
    assert_eq!((text(&middle.parts).contains("ne"), middle.next, middle.is_complete), (true, 3, false));
    let empty = world.read(run, 4, 100, 0).await;
    assert_eq!((empty.parts.len(), empty.next, empty.is_complete), (0, 4, false), "no wait was asked for");
    let (waited, ()) = tokio::join!(world.read(run, 4, 100, 30_000), async { std::fs::write(&go, "").unwrap() });
    assert_eq!((waited.parts[0].bytes.as_slice(), waited.next), (&b"two\n"[..], 8));
    let (ended, ()) = tokio::join!(world.read(run, 8, 100, 30_000), world.cancel(run));
    assert!(ended.parts.is_empty() && ended.is_complete, "the end of the run ends the wait");
}

#[tokio::test]
async fn a_run_that_waits_has_no_output_yet_and_an_unknown_one_is_refused() {
    let world = World::new().await;
    let runs = world.stage(vec![stage_in("echo later", 300)]).await;
    let page = world.read(runs[0], 0, 100, 0).await;
    assert!(page.parts.is_empty() && !page.is_complete);
    assert_eq!(world.read_until(runs[0], |text| text == "later\n").await, "later\n");
    let run = stage("").run;
    let request = ReadOutput { cluster: world.leader.with(|state| state.cluster), run, from: 0, bytes_max: 10, wait_ms: 0 };
    assert_eq!(world.worker.read_output(context(), request.clone()).await.unwrap(), Err(Refusal::UnknownRun(run)));
    let cluster = chrono_flow::model::ClusterId(uuid::Uuid::nil());
    let refused = world.worker.read_output(context(), ReadOutput { cluster, ..request }).await.unwrap();
    assert!(matches!(refused, Err(Refusal::OtherCluster { .. })));
}

#[tokio::test]
async fn a_large_output_stays_in_the_spool_until_the_store_has_it() {
    let world = World::new().await;
    let stage = stage("head -c 100000 /dev/zero");
    let run = stage.run;
    world.stage(vec![stage]).await;
    let ended = world.leader.ended(run).await;
    let file = world.path(&format!("data/spool/{run}.out"));
    assert!(ended.output.is_none() && file.exists());
    world.leader.with(|state| state.recorded_up_to = ended.closed_at - 1);
    world.leader.heartbeats(2).await;
    assert!(file.exists(), "not recorded yet");
    assert_eq!(world.read_all(run).await[0].bytes.len(), 100_000);
    world.leader.with(|state| state.recorded_up_to = ended.closed_at);
    until("the spool file goes", || !file.exists()).await;
}

#[tokio::test]
async fn a_spool_at_its_limit_takes_no_new_work_until_there_is_room() {
    let world = World::with(|config| config.spool_bytes_max = 1_000_000).await;
    let stage_large = || stage("head -c 450000 /dev/zero");
    let (first, second) = (stage_large(), stage_large());
    let runs = world.stage(vec![first, second]).await;
    for run in &runs {
        world.leader.ended(*run).await;
    }
    let refused = world.stage_answers(vec![stage("echo no")]).await.remove(0);
    assert!(format!("{:?}", refused.result).contains("the spool holds"), "{refused:?}");
    let trouble = |state: &mut crate::leader::State| state.heartbeats.back().and_then(|heartbeat| heartbeat.trouble.clone());
    assert!(world.leader.until("trouble in the heartbeat", trouble).await.contains("the spool holds"));
    world.leader.with(|state| state.recorded_up_to = state.index);
    let is_well =
        |state: &mut crate::leader::State| state.heartbeats.back().is_some_and(|heartbeat| heartbeat.trouble.is_none()).then_some(());
    world.leader.until("no trouble", is_well).await;
    world.run("echo yes").await;
}

#[tokio::test]
async fn both_streams_keep_the_order_in_which_they_were_captured() {
    let world = World::new().await;
    let wait = |name: &str| format!("while [ ! -e {} ]; do sleep 0.01; done", world.path(name).display());
    let stage = stage(&format!("echo out1; {}; echo err1 >&2; {}; echo out2", wait("first"), wait("second")));
    let run = stage.run;
    world.stage(vec![stage]).await;
    world.read_until(run, |text| text == "out1\n").await;
    std::fs::write(world.path("first"), "").unwrap();
    world.read_until(run, |text| text == "out1\nerr1\n").await;
    std::fs::write(world.path("second"), "").unwrap();
    let parts = world.leader.ended(run).await.output.unwrap();
    let streams: Vec<Stream> = parts.iter().map(|part| part.stream).collect();
    assert_eq!((text(&parts).as_str(), streams), ("out1\nerr1\nout2\n", vec![Stream::Stdout, Stream::Stderr, Stream::Stdout]));
}
