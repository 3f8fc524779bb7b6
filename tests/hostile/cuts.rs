//! Where input is cut. All positions are as good as each other to a reader that is right; one that is wrong goes wrong
//! next to a byte that means something to it: CR, LF, NUL, a dot.

/// Positions for the binary: at most [`SAMPLE`] of those next to a byte that means something, evenly spread, and one of the
/// others; which ones differs with `seed`, so that cases with the same frame do not all have the same cuts.
/// With `HOSTILE_EVERY_CUT` set it is every position of inputs that are not large.
pub fn sample(input: &[u8], seed: usize) -> Vec<usize> {
    if std::env::var_os("HOSTILE_EVERY_CUT").is_some() && input.len() <= LONGEST_BYTE_BY_BYTE {
        return inner(input).collect();
    }
    let (marked, others): (Vec<usize>, Vec<usize>) = inner(input).partition(|at| is_next_to_mark(input, *at));
    [spread(&marked, SAMPLE, seed), spread(&others, 1, seed)].concat()
}

/// Positions for the session in memory: all of them, but for inputs that are large; of those, all next to a byte that
/// means something (or, if they are very many, a spread of 2,000) and some hundred others.
pub fn in_memory(input: &[u8]) -> Vec<usize> {
    if input.len() <= LONGEST_BYTE_BY_BYTE {
        return inner(input).collect();
    }
    let (marked, others): (Vec<usize>, Vec<usize>) = inner(input).partition(|at| is_next_to_mark(input, *at));
    let most = LARGE_BYTES / input.len();
    [spread(&marked, most.clamp(8, 2000), 0), spread(&others, (most / 4).clamp(4, 200), 0)].concat()
}

/// A record of a socket that keeps cuts must fit into the receiver's buffer, which has room for 4 KiB and holds the
/// beginning of a line, perhaps. So larger inputs reach it in more pieces anyway.
pub const RECORD: usize = 2048;

/// Inputs up to this are sent byte by byte, and cut in memory at every position.
pub const LONGEST_BYTE_BY_BYTE: usize = 3000;

fn inner(input: &[u8]) -> std::ops::Range<usize> {
    1..input.len()
}

fn is_next_to_mark(input: &[u8], at: usize) -> bool {
    input[at - 1..=at].iter().any(|byte| b"\r\n.\0".contains(byte))
}

fn spread(positions: &[usize], most: usize, seed: usize) -> Vec<usize> {
    let step = positions.len().div_ceil(most.max(1)).max(1);
    positions.iter().skip(seed % step).step_by(step).copied().collect()
}

const SAMPLE: usize = 3;

/// How many bytes all cuts of one large input may go through, in a debug build.
const LARGE_BYTES: usize = 20_000_000;
