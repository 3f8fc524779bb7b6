//! Numbers that only have to look random, and be the same again for the same seed.

/// A small generator (SplitMix64).
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, of all that there are.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// An index into something of this length; 0 if it is empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(u64::try_from(length.max(1)).unwrap())).unwrap()
    }

    /// Whether it is the one time in so many.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn choose<'t, T: ?Sized>(&mut self, choices: &[&'t T]) -> &'t T {
        choices[self.index(choices.len())]
    }

    /// From 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.number() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// From 1 to `largest`, every order of magnitude as often as any other.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and an integer")]
    pub fn size(&mut self, largest: u32) -> usize {
        (f64::from(largest).ln() * self.fraction()).exp().round() as usize
    }
}
