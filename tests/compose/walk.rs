//! The README's walk, to the letter: the blocks of its section "With Docker Compose", one after the other.

use crate::cluster::{Cluster, Container};
use crate::shell::docker;
use crate::wait::{eventually, now_ms, wait_until_ms};

/// The README's blocks of commands below a heading.
fn blocks(heading: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let section = readme.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("the README lacks {heading}")).1;
    let section = section.split("\n## ").next().and_then(|rest| rest.split("\n### ").next()).expect("a section");
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().expect("a block").to_owned()).collect()
}

/// A look at what comes in its time: all of its lines look, and none changes anything.
fn is_look(block: &str) -> bool {
    let looks = ["docker logs", "docker compose logs", "docker compose ps", "curl http", "docker exec chrono-controller-1 chrono-flow"];
    block.lines().filter(|line| !line.starts_with('#')).all(|line| looks.iter().any(|look| line.starts_with(look)))
}

/// The instants at which Date Printer ran.
fn fires(cluster: &Cluster) -> Vec<i64> {
    let rows = cluster.api().runs();
    let mut fires: Vec<i64> = rows.iter().filter(|row| row.trigger == "schedule").map(|row| row.at_ms).collect();
    assert!(rows.iter().filter(|row| row.is_final()).all(|row| row.state == "succeeded"), "{rows:#?}");
    fires.sort_unstable();
    fires
}

#[test]
fn the_walk_of_the_readme_works_to_the_letter() {
    let mut cluster = Cluster::prepare();
    let blocks = blocks("### With Docker Compose");
    assert!(blocks.len() >= 6, "{blocks:#?}");
    let missing = cluster.shell.run("docker compose up -d").expect_err("there are no secrets yet");
    assert!(missing.contains("run scripts/make-env first"), "{missing}");
    let (last, others) = blocks.split_last().expect("blocks");
    for block in others {
        if is_look(block) {
            let told = eventually(&format!("this goes well:\n{block}"), || cluster.shell.run(block).ok());
            eprintln!("$ {block}{told}");
        } else {
            let started_ms = now_ms();
            cluster.shell(block);
            eprintln!("$ {block}({} ms)", now_ms() - started_ms);
        }
    }
    // Two leaders, one after the other, and the stopped one is back; Docker sees that all are well.
    cluster.wait_ready();
    let health = |word: &str| docker(&["ps", "-q", "--filter", "name=chrono-", "--filter", &format!("health={word}")]).lines().count();
    eventually("all five containers are healthy", || (health("healthy") == 5).then_some(()));
    cluster.check_one_leader_a_term();
    let lines = cluster.shell("docker compose logs | grep LEADER");
    assert!(lines.lines().count() >= 2, "{lines}");
    let next_ms = (now_ms() / 10_000 + 2) * 10_000 + 1_500;
    wait_until_ms(next_ms);
    let fires =
        eventually("history is whole", || Some(fires(&cluster)).filter(|fires| fires.last().is_some_and(|last| *last >= next_ms - 11_500)));
    assert!(fires.len() >= 3 && fires.windows(2).all(|pair| pair[1] - pair[0] == 10_000), "a fire is missing or doubled: {fires:?}");
    let log = Container("chrono-worker-1".into()).log();
    let printed = log.iter().filter(|line| line.contains("The current date is")).count();
    assert_eq!(printed, fires.len(), "each printed once");
    cluster.shell(last);
    assert_eq!(docker(&["ps", "-a", "-q", "--filter", "name=chrono-"]), "");
}

/// `docker history`: what lies above the base image.
#[test]
fn the_image_is_small_and_runs_without_privileges() {
    let layers = docker(&["history", "--format", "{{.Size}}\t{{.CreatedBy}}", "--human=false", "chrono-flow"]);
    let base = docker(&["history", "--format", "{{.Size}}", "--human=false", "debian:bookworm-slim"]);
    let sum = |text: &str| -> u64 { text.lines().filter_map(|line| line.split('\t').next()?.parse::<u64>().ok()).sum() };
    let above = sum(&layers) - sum(&base);
    eprintln!("layers above the base: {:.1} MB\n{layers}", above as f64 / 1e6);
    assert!(above <= 45_000_000, "{above} bytes above the base\n{layers}");
    let said = docker(&["run", "--rm", "--entrypoint", "sh", "chrono-flow", "-c", "id -u; touch /usr/local/bin/x 2>&1; cat /proc/1/comm"]);
    assert!(said.starts_with("10001\n") && said.contains("Permission denied"), "{said}");
    let version = docker(&["run", "--rm", "chrono-flow", "--version"]);
    assert_eq!(version.trim(), concat!("chrono-flow ", env!("CARGO_PKG_VERSION")));
}
