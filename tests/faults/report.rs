//! What a scenario of the fault suite found, and the table of all of them.

/// What a scenario counted.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sessions or deliveries.
    pub runs: u64,
    /// Faults injected.
    pub faults: u64,
    /// Messages that got 250.
    pub accepted: u64,
    /// Copies found at destinations.
    pub found: u64,
    /// Copies that got 250 and are not there.
    pub lost: u64,
    /// Copies that are there more than once.
    pub doubled: u64,
    /// Copies that are there in part.
    pub torn: u64,
    /// Whole copies without a 250, where the fault fell between the sync and the 250 (RFC 1047).
    pub window: u64,
    /// Everything else that should not be.
    pub problems: Vec<String>,
    /// What is worth knowing and no reason to fail.
    pub notes: Vec<String>,
}

impl Tally {
    /// Whether everything is as it was promised.
    pub fn passed(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.torn == 0 && self.problems.is_empty()
    }

    /// Adds what another run of the same scenario counted.
    pub fn add(&mut self, other: Tally) {
        self.runs += other.runs;
        self.faults += other.faults;
        self.accepted += other.accepted;
        self.found += other.found;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.torn += other.torn;
        self.window += other.window;
        self.problems.extend(other.problems);
        self.notes.extend(other.notes);
    }
}

/// The table of all scenarios, a line each.
pub fn table(results: &[(&str, Tally)]) -> String {
    let mut lines = vec![format!(
        "{:<12}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}{:>8}",
        "scenario", "runs", "faults", "250s", "found", "lost", "doubled", "torn", "window"
    )];
    for (name, tally) in results {
        lines.push(format!(
            "{name:<12}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}{:>8}{}",
            tally.runs,
            tally.faults,
            tally.accepted,
            tally.found,
            tally.lost,
            tally.doubled,
            tally.torn,
            tally.window,
            if tally.passed() { "" } else { "  FAILED" },
        ));
    }
    lines.join("\n")
}
