//! What the leader orders: stage, revoke, cancel, and orders that must not be obeyed.

use chrono_flow::model::{Reason, RunState};
use chrono_flow::rpc::wire::{HeldPhase, Order, Refusal, RunRef, StageResult};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::support::{World, connect, context, lines, stage, stage_in};

#[tokio::test]
async fn what_is_revoked_before_its_instant_never_starts() {
    let world = World::new().await;
    let witness = world.path("witness");
    let command = format!("echo ran >> {}", witness.display());
    let revoked = stage_in(&command, 300);
    let again = revoked.clone();
    world.stage(vec![revoked]).await;
    assert!(world.revoke(again.run, 1).await.not_started);
    assert_eq!(world.stage_answers(vec![again.clone()]).await[0].result, StageResult::Revoked, "a stage that comes late");
    let held = world.worker.list(context(), world.order(())).await.unwrap().unwrap();
    assert!(held.iter().any(|held| held.run == again.run && held.phase == HeldPhase::Revoked));
    let later = stage_in("true", 600);
    let run = later.run;
    world.stage(vec![later]).await;
    world.leader.ended(run).await;
    assert_eq!(lines(&witness), Vec::<String>::new());
    let mut moved = again.clone();
    (moved.epoch, moved.in_ms, moved.start_at) = (2, 0, moved.start_at);
    world.stage(vec![moved]).await;
    world.leader.ended(again.run).await;
    assert_eq!(lines(&witness), ["ran"], "under a later epoch it may");
    assert!(!world.revoke(again.run, 2).await.not_started);
}

#[tokio::test]
async fn a_stage_that_is_repeated_starts_one_process() {
    let world = World::new().await;
    let witness = world.path("witness");
    let stage = stage_in(&format!("echo ran >> {}", witness.display()), 100);
    world.stage(vec![stage.clone(), stage.clone()]).await;
    world.stage(vec![stage.clone()]).await;
    let ended = world.leader.ended(stage.run).await;
    world.stage(vec![stage.clone()]).await;
    world.leader.with(|state| state.recorded_up_to = ended.closed_at);
    world.leader.heartbeats(2).await;
    world.stage(vec![stage.clone()]).await;
    world.run("true").await;
    assert_eq!(lines(&witness), ["ran"]);
}

#[tokio::test]
async fn orders_of_a_lower_term_another_session_or_cluster_are_refused() {
    let world = World::new().await;
    let witness = world.path("witness");
    let stages = || vec![stage(&format!("echo ran >> {}", witness.display()))];
    let good = world.order(());
    let with = |change: &dyn Fn(&mut Order<Vec<_>>)| {
        let mut order = Order { cluster: good.cluster, term: good.term, session: good.session, body: stages() };
        change(&mut order);
        order
    };
    let refused = |order| async { world.worker.stage(context(), order).await.unwrap().unwrap_err() };
    assert_eq!(refused(with(&|order| order.term = 4)).await, Refusal::OldTerm { seen: 5, given: 4 });
    assert!(matches!(refused(with(&|order| order.session.0 -= 1)).await, Refusal::OtherSession { .. }));
    assert!(matches!(refused(with(&|order| order.cluster.0 = uuid::Uuid::nil())).await, Refusal::OtherCluster { .. }));
    let lower = stage_in("true", 60_000);
    let mut higher = lower.clone();
    higher.epoch = 2;
    world.stage(vec![higher]).await;
    assert_eq!(world.stage_answers(vec![lower]).await[0].result, StageResult::Revoked);
    world.run("true").await;
    assert_eq!(lines(&witness), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_left_in_an_older_connection_of_the_leader_is_refused() {
    let world = World::new().await;
    let newer = connect(&world.agent);
    newer.stage(context(), world.order(vec![stage("true")])).await.unwrap().unwrap();
    let refused = world.worker.stage(context(), world.order(vec![stage("true")])).await.unwrap();
    assert!(format!("{refused:?}").contains("replaced by a newer one"), "{refused:?}");
}

#[tokio::test]
async fn a_cancel_while_a_run_waits_ends_it_without_a_start() {
    let world = World::new().await;
    let stage = stage_in("echo ran", 60_000);
    let run = stage.run;
    world.stage(vec![stage]).await;
    world.cancel(run).await;
    let ended = world.leader.ended(run).await;
    assert_eq!((ended.outcome.state, ended.outcome.reason), (RunState::Cancelled, Some(Reason::Requested)));
    assert_eq!((ended.outcome.started_at, ended.outcome.output_bytes), (None, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn orders_are_obeyed_in_the_order_in_which_they_were_sent() {
    let world = World::new().await;
    for _ in 0..50 {
        let mut calls = FuturesUnordered::new();
        for _ in 0..40 {
            let stage = stage_in("echo ran", 60_000);
            let revoke = world.order(vec![RunRef { run: stage.run, epoch: 1 }]);
            let (worker, stage) = (world.worker.clone(), world.order(vec![stage]));
            // Both are on their way at once; a revoke that overtook its stage would make it refused. Unconstrained, so that tokio's
            // budget does not reorder them on the way out.
            let both = async move { futures::join!(worker.stage(context(), stage), worker.revoke(context(), revoke)) };
            calls.push(tokio::task::unconstrained(both));
        }
        while let Some((staged, revoked)) = calls.next().await {
            assert_eq!(staged.unwrap().unwrap()[0].result, StageResult::Accepted);
            assert!(revoked.unwrap().unwrap()[0].not_started);
        }
    }
    world.agent.watch_status().wait_for(|status| status.counts.waiting == 0).await.unwrap();
}

#[tokio::test]
async fn two_hundred_runs_on_four_slots_run_four_at_once_in_order_of_their_instants() {
    let world = World::with(|config| config.slots = 4).await;
    let witness = world.path("witness");
    let stage_one = |n: usize| stage_in(&format!("echo +{n} >> {0}; sleep 0.01; echo -{n} >> {0}", witness.display()), 100 + n as i64);
    let mut stages: Vec<_> = (0..200).map(stage_one).collect();
    stages.sort_by_key(|stage| stage.run);
    let runs = world.stage(stages).await;
    for run in runs {
        assert_eq!(world.leader.ended(run).await.outcome.state, RunState::Succeeded);
    }
    let (mut running, mut order) = (0_i32, Vec::new());
    for line in lines(&witness) {
        let (sign, n) = line.split_at(1);
        running += if sign == "+" { 1 } else { -1 };
        assert!(running <= 4, "{running} at once");
        if sign == "+" {
            order.push(n.parse::<i64>().unwrap());
        }
    }
    assert_eq!(order.len(), 200);
    for (place, n) in order.iter().enumerate() {
        assert!((place as i64 - n).abs() <= 4, "number {n} was started as number {place}");
    }
}
