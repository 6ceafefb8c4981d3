//! Random changes of inputs: small ones of one, and pieces of others.

use crate::support::Random;

/// Bytes at which formats and arithmetic have their edges.
const EDGES: [&[u8]; 12] = [
    &[0],
    &[0x7F],
    &[0x80],
    &[0xFF],
    &[0xFF; 4],
    &[0; 8],
    &[0xFF; 8],
    &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
    // Varints: the largest of 64 bits, the least and the largest with a sign, and one that is too long.
    &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
    &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
    &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
    &[0xFF; 11],
];

/// Words of the texts that are read.
const WORDS: [&str; 24] = [
    "*",
    "/",
    "-",
    ",",
    "L",
    "W",
    "#5",
    "?",
    "H",
    "H(0-29)/10",
    "31",
    "60",
    "feb",
    "sun",
    "@every ",
    "@yearly",
    "TZ=",
    "CRON_TZ=Asia/Tokyo ",
    "null",
    "\"",
    "{\"",
    "9999999999",
    "1e999",
    "\\u0000",
];

pub struct Mutator<'a> {
    random: Random,
    corpus: &'a [(String, Vec<u8>)],
    bytes_max: usize,
    is_text: bool,
    current: Vec<u8>,
}

impl<'a> Mutator<'a> {
    pub fn new(target: &str, random: Random, corpus: &'a [(String, Vec<u8>)], bytes_max: usize) -> Mutator<'a> {
        Mutator { random, corpus, bytes_max, is_text: matches!(target, "schedule" | "job_json"), current: Vec::new() }
    }

    /// The next input: one of the corpus with one to eight changes.
    pub fn next(&mut self) -> &[u8] {
        let place = self.below(self.corpus.len());
        self.current.clone_from(&self.corpus[place].1);
        for _ in 0..=self.random.below(8) {
            self.change();
        }
        self.current.truncate(self.bytes_max);
        &self.current
    }

    fn change(&mut self) {
        let (from, to) = self.range();
        match self.random.below(9) {
            0 if !self.current.is_empty() => {
                let (at, bit) = (self.below(self.current.len()), self.random.below(8));
                self.current[at] ^= 1 << bit;
            }
            1 if !self.current.is_empty() => {
                let at = self.below(self.current.len());
                let step = self.random.below(16) as u8;
                self.current[at] = self.current[at].wrapping_add(step).wrapping_sub(8);
            }
            2 => drop(self.current.drain(from..to)),
            3 => {
                let piece = self.current[from..to].to_vec();
                self.insert(&piece);
            }
            4 => self.current.truncate(from),
            5 | 6 => {
                let piece: Vec<u8> = if self.is_text { self.random.pick(&WORDS).into() } else { self.random.pick(&EDGES).into() };
                if self.random.chance(50) {
                    self.insert(&piece);
                } else {
                    let end = (from + piece.len()).min(self.current.len());
                    self.current[from..end].copy_from_slice(&piece[..end - from]);
                }
            }
            7 => {
                let other = &self.corpus[self.random.below(self.corpus.len() as u64) as usize].1;
                let start = self.random.below(other.len() as u64 + 1) as usize;
                let end = start + self.random.below((other.len() - start) as u64 + 1) as usize;
                let piece = other[start..end].to_vec();
                self.insert(&piece);
            }
            _ => {
                let byte = self.random.next() as u8;
                self.insert(&[byte]);
            }
        }
    }

    fn insert(&mut self, piece: &[u8]) {
        let at = self.below(self.current.len() + 1);
        self.current.splice(at..at, piece.iter().copied());
    }

    /// A piece of the current input, mostly a short one.
    fn range(&mut self) -> (usize, usize) {
        let from = self.below(self.current.len() + 1);
        let rest = self.current.len() - from;
        let most = if self.random.chance(80) { rest.min(16) } else { rest };
        (from, from + self.below(most + 1))
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }
}
