//! Controllers that start with empty directories, in whatever order.

use std::time::Duration;

use chrono_flow::peers::founding::Founding;

use crate::group::Group;
use crate::support::CLUSTER;

#[tokio::test(flavor = "multi_thread")]
async fn three_empty_controllers_found_a_cluster_once_all_can_be_heard() {
    let mut group = Group::new(3).await;
    group.listen(1).await;
    group.listen(2).await;
    let early = tokio::time::timeout(Duration::from_millis(1_500), group.decide(1)).await;
    assert!(early.is_err(), "the third one is not there yet: {early:?}");
    group.listen(3).await;
    let all = tokio::join!(group.decide(1), group.decide(2), group.decide(3));
    let found = Founding::Found { cluster: None };
    assert_eq!(all, (Ok(found), Ok(found), Ok(found)));
    for id in 1..=3 {
        group.open(id, found);
    }
    let (_, index) = group.commit(b"hello").await;
    group.until_even(index).await;
    group.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_founder_that_comes_last_founds_the_same_cluster() {
    let mut group = Group::new(3).await;
    for id in 1..=3 {
        group.listen(id).await;
    }
    for id in [1, 2] {
        group.open(id, Founding::Found { cluster: None });
    }
    let (_, index) = group.commit(b"hello").await;
    let founding = group.decide(3).await.unwrap();
    assert_eq!(founding, Founding::Found { cluster: Some(CLUSTER) });
    group.open(3, founding);
    group.until_even(index).await;
    group.stop_all().await;
}
