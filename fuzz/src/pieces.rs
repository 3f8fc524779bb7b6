//! How bytes may arrive: a peer's network decides what one read(2) gives us, and that must make no difference.

/// The input as one piece, byte by byte, and in pieces of many lengths that depend on nothing but the input.
pub fn three_ways(input: &[u8]) -> [Vec<&[u8]>; 3] {
    [vec![input], input.chunks(1).collect(), cut(input, lengths_from(input))]
}

/// Cuts the input into pieces of these lengths; 0 stands for the rest, and what is left over is a piece as well.
pub fn cut(input: &[u8], lengths: impl IntoIterator<Item = usize>) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::new(), input);
    for length in lengths {
        if rest.is_empty() {
            break;
        }
        let length = if length == 0 { rest.len() } else { length.min(rest.len()) };
        let (piece, behind) = rest.split_at(length);
        pieces.push(piece);
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// Numbers from 1 to 16 without end, seeded by the input (FNV-1a, then Knuth's generator for MMIX).
fn lengths_from(input: &[u8]) -> impl Iterator<Item = usize> {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let seed = input.iter().fold(0xcbf2_9ce4_8422_2325, hash);
    let next =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(seed), next).map(|state| usize::from((state >> 60) as u8) + 1)
}
