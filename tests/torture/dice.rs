//! Chance that a seed brings back: one seed, and every lane of the torture decides as it did before.

/// The generator known as SplitMix64: small, and good enough to decide whom to hurt.
pub(crate) struct Dice(u64);

impl Dice {
    /// Each lane throws dice of its own, so that what one does leaves the others' throws as they were.
    pub(crate) fn new(seed: u64, lane: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_add(lane.wrapping_mul(0xA076_1D64_78BD_642F)));
        dice.throw();
        dice
    }

    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both of them included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.throw() % (high - low + 1)
    }

    /// Whether it happens that happens so many times in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }

    /// One of these; the first of each pair says how often it is chosen, compared with the others.
    pub(crate) fn weighed<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let total: u64 = choices.iter().map(|(weight, _)| weight).sum();
        let mut throw = self.between(1, total);
        for (weight, choice) in choices {
            if throw <= *weight {
                return *choice;
            }
            throw -= weight;
        }
        unreachable!("a throw is never more than all weights together")
    }

    /// One of these, if there is one.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let last = from.len().checked_sub(1)?;
        from.get(self.between(0, last as u64) as usize)
    }
}
