//! Promises about captured output.

use chrono_flow::model::output::render;
use chrono_flow::model::{OutputPart, RunId, Stream};
use chrono_flow::store::Store;

use super::{Harness, open_fresh, part, record_page, reopen, run_id};

/// Reads all of a run's output from `offset` on, `bytes_max` at a time.
async fn read_all(store: &impl Store, run: RunId, mut offset: u64, bytes_max: u32) -> Vec<OutputPart> {
    let mut parts: Vec<OutputPart> = Vec::new();
    loop {
        let piece = store.output(run, offset, bytes_max).await.unwrap();
        let bytes: usize = piece.parts.iter().map(|part| part.bytes.len()).sum();
        assert!(bytes <= bytes_max as usize);
        assert!(bytes > 0 || !piece.has_more, "who reads on gets on");
        offset = piece.parts.last().map_or(offset, OutputPart::end);
        parts.extend(piece.parts);
        if !piece.has_more {
            return parts;
        }
    }
}

fn text(from: u64, parts: &[OutputPart], stream: Option<Stream>) -> String {
    let mut text = Vec::new();
    render(&mut text, from, parts, stream);
    String::from_utf8(text).unwrap()
}

pub async fn output_reads_back_from_any_offset<H: Harness>() {
    let (harness, store) = open_fresh::<H>().await;
    record_page(&*store, run_id(1), vec![part(0, Stream::Stdout, b"abc"), part(3, Stream::Stderr, b"de")]).await;
    record_page(&*store, run_id(1), vec![part(5, Stream::Stdout, b"fgh"), part(8, Stream::Stdout, b""), part(8, Stream::Stderr, b"i")])
        .await;
    record_page(&*store, run_id(2), vec![part(0, Stream::Stdout, &[0, 255, 10])]).await;
    let store = reopen(&harness, store).await;
    for bytes_max in [1, 2, 3, 4, 100] {
        for from in 0..=9 {
            let parts = read_all(&*store, run_id(1), from, bytes_max).await;
            assert_eq!(text(from, &parts, None), "abcdefghi"[from as usize..], "from {from}, {bytes_max} at a time");
        }
    }
    assert_eq!(text(0, &read_all(&*store, run_id(1), 0, 100).await, Some(Stream::Stderr)), "dei");
    assert_eq!(read_all(&*store, run_id(2), 0, 100).await, [part(0, Stream::Stdout, &[0, 255, 10])]);
    for beyond in [10, 1_000, u64::MAX] {
        assert_eq!(read_all(&*store, run_id(1), beyond, 10).await, []);
    }
    assert_eq!(read_all(&*store, run_id(3), 0, 10).await, [], "of a run that wrote nothing");
    assert_eq!(store.output(run_id(2), 0, 0).await.unwrap().parts.len(), 1, "a reader always gets on");
}

pub async fn a_page_written_again_is_replaced<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    record_page(&*store, run_id(1), vec![part(0, Stream::Stdout, b"first")]).await;
    record_page(&*store, run_id(1), vec![part(5, Stream::Stdout, b"sec")]).await;
    record_page(&*store, run_id(1), vec![part(5, Stream::Stdout, b"second"), part(11, Stream::Stderr, b"!")]).await;
    record_page(&*store, run_id(1), vec![part(0, Stream::Stdout, b"FIRST")]).await;
    assert_eq!(text(0, &read_all(&*store, run_id(1), 0, 100).await, None), "FIRSTsecond!");
}

pub async fn holes_stay_holes<H: Harness>() {
    let (_harness, store) = open_fresh::<H>().await;
    record_page(&*store, run_id(1), vec![part(0, Stream::Stdout, b"head"), part(100, Stream::Stdout, b"mid")]).await;
    record_page(&*store, run_id(1), vec![part(1_000, Stream::Stdout, b"tail")]).await;
    let dropped = |bytes: u64| format!("\n[chrono-flow: {bytes} bytes of output dropped here]\n");
    for bytes_max in [1, 3, 100] {
        let parts = read_all(&*store, run_id(1), 0, bytes_max).await;
        assert_eq!(text(0, &parts, None), format!("head{}mid{}tail", dropped(96), dropped(897)));
    }
    for (from, first) in [(4, 100), (50, 100), (101, 101), (103, 1_000), (500, 1_000), (1_001, 1_001)] {
        assert_eq!(store.output(run_id(1), from, 1).await.unwrap().parts[0].offset, first, "from {from}");
    }
}

/// As much as a run may keep, in small: pages of a quarter of a MiB, read in pieces that fit neither pages nor parts.
pub async fn long_output_is_read_in_bounded_pieces<H: Harness>() {
    const PART_BYTES: usize = 16 * 1024;
    let (_harness, store) = open_fresh::<H>().await;
    let mut written = Vec::new();
    for page in 0..12u64 {
        let parts: Vec<OutputPart> = (0..16u64)
            .map(|index| {
                let offset = (page * 16 + index) * PART_BYTES as u64;
                let bytes: Vec<u8> = (0..PART_BYTES as u64).map(|at| ((offset + at) / 7) as u8).collect();
                part(offset, if index % 3 == 0 { Stream::Stderr } else { Stream::Stdout }, &bytes)
            })
            .collect();
        written.extend(parts.iter().flat_map(|part| part.bytes.clone()));
        record_page(&*store, run_id(1), parts).await;
    }
    for bytes_max in [100_001, 1024 * 1024, u32::MAX] {
        let read: Vec<u8> = read_all(&*store, run_id(1), 0, bytes_max).await.into_iter().flat_map(|part| part.bytes).collect();
        assert!(read == written, "{} bytes of {}, {bytes_max} at a time", read.len(), written.len());
    }
}
