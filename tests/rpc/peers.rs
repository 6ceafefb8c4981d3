//! Consensus over real connections on loopback: what a cluster of three does when connections and members fail.

use std::time::Duration;

use chrono_flow::consensus::MemberChange;
use chrono_flow::model::NodeId;
use chrono_flow::peers::CallError;
use chrono_flow::peers::founding::{Founding, FoundingError};
use chrono_flow::rpc::handshake::Service;
use chrono_flow::rpc::peer::MembersWish;
use chrono_flow::rpc::wire::Refusal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::group::{Group, NOW};
use crate::support::{CLUSTER, PATIENCE, until};

/// Several of these make a snapshot of many chunks.
static LARGE: [u8; 128 * 1024] = [7; 128 * 1024];
const LARGE_COUNT: usize = 64;

fn another(id: NodeId) -> NodeId {
    if id == 1 { 2 } else { 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_elect_a_leader_replicate_and_hand_over() {
    let mut group = Group::of_three().await;
    let (leader, index) = group.commit(b"hello").await;
    group.until_even(index).await;
    for number in 0..200u32 {
        group.commit(&number.to_le_bytes()).await;
    }
    let next = another(leader);
    let change = MembersWish::Transfer { to: Some(next) };
    group.controllers[&next].calls.change_members(leader, Duration::from_secs(10), change).await.unwrap();
    group.until(next, "leading", |status| status.first_own_applied).await;
    let (_, index) = group.commit(b"again").await;
    group.until_even(index).await;
    assert!((1..=3).all(|id| group.status(next).members.iter().any(|member| member.id == id && member.store.is_some())));
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_come_back_and_a_leader_cut_off_is_replaced() {
    let mut group = Group::of_three().await;
    group.commit(b"one").await;
    for _ in 0..3 {
        group.proxies.values().for_each(|proxy| proxy.cut());
        group.heal();
        group.commit(b"after a short cut").await;
    }
    let (old, _) = group.commit(b"two").await;
    group.isolate(old);
    until("another leader", async || (1..=3).any(|id| id != old && group.status(id).first_own_applied)).await;
    group.until(old, "stepping down", |status| !status.is_leader()).await;
    let (_, index) = group.commit(b"three").await;
    group.heal();
    group.until_even(index).await;
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_far_behind_gets_a_snapshot_in_chunks_and_heartbeats_go_on() {
    let mut group = Group::of_three().await;
    let (leader, index) = group.commit(b"hello").await;
    group.until_even(index).await;
    let away = another(leader);
    group.stop(away).await;
    let mut last = 0;
    for _ in 0..LARGE_COUNT {
        last = group.commit(&LARGE).await.1;
    }
    // A snapshot of eight mebibytes takes longer than several election time-outs at this rate.
    group.proxies[&(leader, away)].slow_down(3 << 20);
    group.listen(away).await;
    group.open(away, Founding::Found { cluster: None });
    group.until(away, "hearing of the leader", |status| status.leader == Some(leader)).await;
    let term = group.status(away).term;
    let (mut looked, mut leaderless) = (0, 0);
    until("the snapshot", async || {
        let status = group.status(away);
        assert_eq!((status.term, group.status(leader).is_leader()), (term, true), "nobody missed a heartbeat");
        looked += 1;
        leaderless += u32::from(status.leader != Some(leader));
        status.applied >= last
    })
    .await;
    assert_eq!(leaderless, 0);
    assert!(looked > 100, "the transfer was too fast ({looked}) to show anything");
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_cut_off_half_way_is_sent_again() {
    let mut group = Group::of_three().await;
    let (leader, index) = group.commit(b"hello").await;
    group.until_even(index).await;
    let away = another(leader);
    group.stop(away).await;
    let mut last = 0;
    for _ in 0..LARGE_COUNT {
        last = group.commit(&LARGE).await.1;
    }
    let proxy = &group.proxies[&(leader, away)];
    proxy.slow_down(8 << 20);
    group.listen(away).await;
    group.open(away, Founding::Found { cluster: None });
    group.until(away, "hearing of the leader", |status| status.leader == Some(leader)).await;
    let proxy = &group.proxies[&(leader, away)];
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(group.status(away).applied < last, "it was too fast to be cut off");
    proxy.cut();
    proxy.slow_down(0);
    proxy.heal();
    // Long before the sender's own time-out of a minute.
    tokio::time::timeout(Duration::from_secs(20), group.until(away, "the snapshot", |status| status.applied >= last)).await.unwrap();
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_controller_is_told_so_and_joins_once_it_was_replaced() {
    let mut group = Group::of_three().await;
    for _ in 0..LARGE_COUNT {
        group.commit(&LARGE).await;
    }
    let (leader, index) = group.commit(b"hello").await;
    group.until_even(index).await;
    let wiped = another(leader);
    until("the directory to be known", async || {
        group.status(leader).members.iter().any(|member| member.id == wiped && member.store.is_some())
    })
    .await;
    group.stop(wiped).await;
    std::fs::remove_dir_all(group.data_dir(wiped)).unwrap();
    group.listen(wiped).await;
    let error = group.decide(wiped).await.unwrap_err();
    assert!(matches!(error, FoundingError::Wiped { own, .. } if own == wiped), "{error}");

    let address = group.controllers[&wiped].configured[&wiped].clone();
    group.change(MemberChange::Remove { id: wiped }).await;
    let add = MembersWish::Add { id: wiped, address: address.clone() };
    group.controllers[&wiped].calls.change_members(leader, Duration::from_secs(10), add).await.unwrap();
    let founding = group.decide(wiped).await.unwrap();
    assert_eq!(founding, Founding::Join { cluster: CLUSTER });
    group.open(wiped, founding);
    let (_, index) = group.commit(b"again").await;
    group.until_even(index).await;
    group.change(MemberChange::Voter { id: wiped, address }).await;
    let others: Vec<NodeId> = (1..=3).filter(|id| ![wiped, leader].contains(id)).collect();
    group.stop(others[0]).await;
    group.commit(b"with the vote of the new one").await;
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_propose_through_the_leader_and_read_each_others_clocks() {
    const LIMIT: Duration = Duration::from_secs(5);
    let mut group = Group::of_three().await;
    let (leader, _) = group.commit(b"hello").await;
    let follower = another(leader);
    let calls = &group.controllers[&follower].calls;
    let proposed = calls.propose(leader, LIMIT, b"from a follower".to_vec()).await.unwrap();
    assert_eq!(*proposed.replies, 1usize.to_le_bytes());
    assert_eq!(calls.pulse(leader, LIMIT).await.unwrap().now, NOW);
    let large = calls.propose(leader, Duration::from_secs(20), vec![1; 8 << 20]).await;
    assert!(large.is_ok(), "the largest command that the ledger takes: {large:?}");
    let refused = group.controllers[&leader].calls.propose(follower, LIMIT, b"to a follower".to_vec()).await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { refusal: Refusal::NotLeader { .. }, .. }), "{refused}");
    assert!(matches!(calls.pulse(9, LIMIT).await, Err(CallError::Unknown(9))));

    // A broken connection is replaced, one that can't be is an error in time.
    group.proxies[&(follower, leader)].cut();
    let error = calls.pulse(leader, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. } | CallError::Broken { .. }), "{error}");
    group.heal();
    until("an answer", async || calls.pulse(leader, LIMIT).await.is_ok()).await;
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_foreign_and_broken_frames_of_a_known_peer_disturb_nobody() {
    const HELLO_AT: usize = 44 + 32;
    let mut group = Group::of_three().await;
    group.commit(b"hello").await;
    // Connections that begin now are recorded.
    let recordings: Vec<_> = group.proxies.iter().map(|((_, to), proxy)| (*to, proxy.record())).collect();
    group.proxies.values().for_each(|proxy| proxy.cut());
    group.heal();
    for _ in 0..5 {
        let (_, index) = group.commit(&LARGE).await;
        group.until_even(index).await;
    }
    let before: Vec<u64> = (1..=3).map(|id| group.status(id).applied).collect();
    let mut replayed = 0;
    let recorded: Vec<_> = recordings.into_iter().map(|(to, recording)| (to, recording.lock().unwrap().clone())).collect();
    for (to, connections) in recorded {
        for bytes in connections.into_iter().filter(|bytes| bytes.len() > HELLO_AT + 2) {
            let hello_bytes = usize::from(u16::from_le_bytes([bytes[HELLO_AT], bytes[HELLO_AT + 1]]));
            let calls = &bytes[HELLO_AT + 2 + hello_bytes..];
            if calls.is_empty() {
                continue;
            }
            let from = another(to);
            // Where it really listens.
            let address = &group.controllers[&to].configured[&to];
            let mut stream = group.controllers[&from].dial.connect(address, Service::Peer).await.unwrap();
            // Twice, for what was sent once.
            stream.write_all(&[calls, calls].concat()).await.unwrap();
            let mut answer = [0; 4];
            let answered = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("calls are answered");
            replayed += usize::from(answered.is_ok());
            // And with every seventh byte changed.
            let changed: Vec<u8> = (0..).zip(calls).map(|(at, byte)| if at % 7 == 6 { byte ^ 0x55 } else { *byte }).collect();
            let mut stream = group.controllers[&from].dial.connect(address, Service::Peer).await.unwrap();
            let _ = stream.write_all(&changed).await;
            let _ = stream.shutdown().await;
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("it is closed");
        }
    }
    assert!(replayed >= 2, "the leader's calls were made again: {replayed}");
    let (_, index) = group.commit(b"as before").await;
    group.until_even(index).await;
    for (id, before) in (1..=3).zip(before) {
        assert!(group.status(id).applied > before && group.status(id).failed.is_none());
    }
    group.stop_all().await;
}
