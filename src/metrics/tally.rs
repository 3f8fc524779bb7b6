//! What one session counts, kept in memory until it is added to the records.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::Record;
use super::{Counter, Counts, Family};

/// The counts of a session, and the records that they are added to.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    counts: RefCell<Counts>,
    /// The records.
    records: RefCell<Vec<SharedRecord>>,
    /// How much longer all records together may make us wait.
    patience: Cell<Duration>,
    /// Whether a failure was reported already.
    has_complained: Cell<bool>,
}

/// A record that the counts are added to.
#[derive(Debug)]
struct SharedRecord {
    /// Its name, for messages.
    name: String,
    record: Record,
    /// The counts that were added already.
    added: Counts,
}

impl SharedRecord {
    fn new(name: String, record: Record) -> Self {
        Self { name, record, added: Counts::default() }
    }
}

impl Tally {
    /// Starts counting from 0. The environment says whether `listen` wants the counts.
    pub(crate) fn of_this_process() -> Self {
        let listens = Record::inherited().map(|record| SharedRecord::new("listen".to_owned(), record));
        Self {
            started: Instant::now(),
            counts: RefCell::default(),
            records: RefCell::new(listens.into_iter().collect()),
            patience: Cell::new(PATIENCE),
            has_complained: Cell::new(false),
        }
    }

    /// Has the counts added to the record in this file too (`metrics_file`). If that is impossible, returns where and
    /// why.
    pub(crate) fn also_at(&self, path: &Path) -> Option<String> {
        let name = path.display().to_string();
        match self.patiently(|patience| Record::at(path, patience)) {
            Ok(record) => {
                self.records.borrow_mut().push(SharedRecord::new(name, record));
                None
            }
            Err(error) => self.complaint(&name, &error),
        }
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    pub(crate) fn add(&self, counter: Counter, number: u64) {
        self.counts.borrow_mut().add(counter, number);
    }

    /// Adds an observation that began at `since`.
    pub(crate) fn observe(&self, family: Family, since: Instant) {
        self.counts.borrow_mut().observe(family, since.elapsed());
    }

    /// Counts a negative reply.
    pub(crate) fn refusal(&self, code: u16, status: Option<impl std::fmt::Display>) {
        self.counts.borrow_mut().refusal(code, status);
    }

    /// Counts the end of the session; only the first call has an effect.
    pub(crate) fn end(&self, how: Counter) {
        if self.counts.borrow().sum(Family::Sessions) == 0 {
            self.count(how);
            self.observe(Family::SessionTime, self.started);
        }
    }

    /// Adds new counts to every record. What cannot be added is tried again next time. The first failure is returned,
    /// with where and why; later ones are not, because they are not worth another log line.
    pub(crate) fn hand_over(&self) -> Option<String> {
        let counts = self.counts.borrow();
        let mut complaint = None;
        for SharedRecord { name, record, added } in &mut *self.records.borrow_mut() {
            let news = counts.since(added);
            if news != Counts::default() {
                match self.patiently(|patience| record.add(&news, patience)) {
                    Ok(()) => *added = counts.clone(),
                    Err(error) => complaint = complaint.or(self.complaint(name, &error)),
                }
            }
        }
        complaint
    }

    /// Runs `act` with the time that it may wait, and subtracts the time that it took.
    fn patiently<T>(&self, act: impl FnOnce(Duration) -> T) -> T {
        let began = Instant::now();
        let done = act(self.patience.get());
        self.patience.set(self.patience.get().saturating_sub(began.elapsed()));
        done
    }

    fn complaint(&self, name: &str, error: &io::Error) -> Option<String> {
        (!self.has_complained.replace(true)).then(|| format!("{name}: {error}"))
    }
}

/// How long a session may wait in all for locked records; others hold the locks for microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
