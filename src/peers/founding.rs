//! What a controller with an empty directory is: a founder, one that joins, or one whose disk was wiped (PROTOCOL G1).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use uuid::Uuid;

use super::{Addresses, client};
use crate::model::{ClusterId, NodeId};
use crate::rpc::link::Dial;
use crate::rpc::peer::{AskerStanding, Standing};

/// How long one peer may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How often it is said whom this controller waits for.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What to start as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Founding {
    /// With all configured controllers as voters. The cluster that a peer has founded already, if one has.
    Found { cluster: Option<ClusterId> },
    /// Empty and without itself among the seed members, until the leader has sent what there is.
    Join { cluster: ClusterId },
}

/// Why it must not start at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FoundingError {
    #[error(
        "controller {own} is known to the cluster with another data directory ({store}, says node {by}), and this one is empty: its disk \
         was wiped or replaced. Under its old identity it must not vote, as it has forgotten what it promised. If the old directory still \
         exists, start with that one. Otherwise replace this member: run `chrono-flow cluster replace {own}` against a living controller, \
         then start this one again"
    )]
    Wiped { own: NodeId, by: NodeId, store: Uuid },
    #[error(
        "the configured controllers belong to different clusters: node {} to {}, node {} to {}. Correct --cluster",
        one.0, one.1, other.0, other.1
    )]
    Mixed { one: (NodeId, ClusterId), other: (NodeId, ClusterId) },
}

/// Asks every configured peer until it is clear what controller `own` is. `dial` is for `Service::Peer`. Meanwhile this controller's own
/// listener must answer that it is empty.
pub async fn decide(own: NodeId, configured: &Addresses, dial: Arc<dyn Dial>) -> Result<Founding, FoundingError> {
    let peers: Vec<(NodeId, &String)> = configured.iter().filter(|(id, _)| **id != own).map(|(id, address)| (*id, address)).collect();
    let mut said: Option<Instant> = None;
    loop {
        let asking = peers.iter().map(|(id, address)| {
            let dial = dial.clone();
            async move { (*id, ask(own, &*dial, address).await) }
        });
        let answers: BTreeMap<NodeId, Result<Standing, String>> = join_all(asking).await.into_iter().collect();
        let standings = answers.iter().map(|(id, answer)| (*id, answer.as_ref().ok())).collect();
        if let Some(founding) = judge(own, &standings)? {
            log::info!("controller {own} has an empty data directory: {}", describe(&founding));
            return Ok(founding);
        }
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            said = Some(Instant::now());
            let silent = answers.iter().filter_map(|(id, answer)| Some((id, answer.as_ref().err()?)));
            let silent: Vec<String> = silent.map(|(id, error)| format!("node {id} at {} ({error})", configured[id])).collect();
            log::warn!("controller {own} has an empty data directory, and waits to hear what it is from {}", silent.join(", "));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn describe(founding: &Founding) -> String {
    match founding {
        Founding::Found { cluster: None } => "all configured controllers are empty too, and found a cluster together".to_owned(),
        Founding::Found { cluster: Some(cluster) } => format!("it is one of the founders of cluster {cluster}"),
        Founding::Join { cluster } => format!("it joins cluster {cluster}, and waits for the leader"),
    }
}

async fn ask(own: NodeId, dial: &dyn Dial, address: &str) -> Result<Standing, String> {
    let asking = async {
        let (client, ended) = client(dial.dial(address).await.map_err(|error| error.to_string())?);
        let mut context = tarpc::context::current();
        context.deadline = Instant::now() + ASK_TIMEOUT;
        tokio::select! {
            biased;
            answer = client.standing(context, own) => answer.map_err(|error| error.to_string()),
            reason = ended => Err(reason),
        }
    };
    tokio::time::timeout(ASK_TIMEOUT, asking).await.unwrap_or_else(|_| Err("no answer yet".to_owned()))
}

/// What follows from the answers so far; `None` where a peer gave none. Nothing, if it takes more of them.
///
/// One peer that knows another directory is enough to refuse, one that knows a newcomer to join. To found takes the word of all: a single
/// member may have missed that the cluster has heard from this controller before.
pub fn judge(own: NodeId, answers: &BTreeMap<NodeId, Option<&Standing>>) -> Result<Option<Founding>, FoundingError> {
    let founded = answers.iter().filter_map(|(id, answer)| match answer {
        Some(Standing::Founded { cluster, asker }) => Some((*id, *cluster, *asker)),
        _ => None,
    });
    let founded: Vec<(NodeId, ClusterId, AskerStanding)> = founded.collect();
    let Some(&(first, cluster, _)) = founded.first() else {
        return Ok(answers.values().all(Option::is_some).then_some(Founding::Found { cluster: None }));
    };
    if let Some((other, theirs, _)) = founded.iter().find(|(_, theirs, _)| *theirs != cluster) {
        return Err(FoundingError::Mixed { one: (first, cluster), other: (*other, *theirs) });
    }
    for (by, _, asker) in &founded {
        if let AskerStanding::Known { store } = asker {
            return Err(FoundingError::Wiped { own, by: *by, store: *store });
        }
    }
    if founded.iter().any(|(_, _, asker)| *asker == AskerStanding::Newcomer) {
        return Ok(Some(Founding::Join { cluster }));
    }
    Ok(answers.values().all(Option::is_some).then_some(Founding::Found { cluster: Some(cluster) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: ClusterId = ClusterId(Uuid::from_u128(1));
    const OTHER: ClusterId = ClusterId(Uuid::from_u128(2));
    const STORE: Uuid = Uuid::from_u128(3);

    fn founded(cluster: ClusterId, asker: AskerStanding) -> Option<Standing> {
        Some(Standing::Founded { cluster, asker })
    }

    fn judged(answers: &[Option<Standing>]) -> Result<Option<Founding>, FoundingError> {
        judge(1, &answers.iter().enumerate().map(|(number, answer)| (number as NodeId + 2, answer.as_ref())).collect())
    }

    #[test]
    fn all_empty_and_reachable_found_together() {
        assert_eq!(judged(&[]), Ok(Some(Founding::Found { cluster: None })));
        assert_eq!(judged(&[Some(Standing::Empty), Some(Standing::Empty)]), Ok(Some(Founding::Found { cluster: None })));
        assert_eq!(judged(&[Some(Standing::Empty), None]), Ok(None));
        assert_eq!(judged(&[None, None]), Ok(None));
    }

    #[test]
    fn a_founder_that_comes_after_the_others_founds_the_same_cluster() {
        let founder = founded(C, AskerStanding::Founder);
        assert_eq!(judged(&[founder.clone(), Some(Standing::Empty)]), Ok(Some(Founding::Found { cluster: Some(C) })));
        assert_eq!(judged(&[founder.clone(), founder.clone()]), Ok(Some(Founding::Found { cluster: Some(C) })));
        assert_eq!(judged(&[founder, None]), Ok(None), "the silent one may know better");
    }

    #[test]
    fn one_that_was_added_or_is_to_be_added_joins_empty() {
        let newcomer = founded(C, AskerStanding::Newcomer);
        assert_eq!(judged(&[newcomer.clone(), None]), Ok(Some(Founding::Join { cluster: C })));
        assert_eq!(judged(&[founded(C, AskerStanding::Founder), newcomer]), Ok(Some(Founding::Join { cluster: C })));
    }

    #[test]
    fn a_wiped_disk_is_named_and_told_what_to_do_whatever_others_say() {
        let known = founded(C, AskerStanding::Known { store: STORE });
        for other in [None, Some(Standing::Empty), founded(C, AskerStanding::Founder), founded(C, AskerStanding::Newcomer)] {
            let error = judged(&[other, known.clone()]).unwrap_err();
            assert_eq!(error, FoundingError::Wiped { own: 1, by: 3, store: STORE });
            assert!(error.to_string().contains("chrono-flow cluster replace 1"), "{error}");
        }
    }

    #[test]
    fn peers_of_two_clusters_are_an_error() {
        let (one, other) = (founded(C, AskerStanding::Founder), founded(OTHER, AskerStanding::Newcomer));
        assert_eq!(judged(&[one, other]), Err(FoundingError::Mixed { one: (2, C), other: (3, OTHER) }));
    }
}
