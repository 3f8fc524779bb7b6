//! What one session counts: in its own memory, until it hands that over.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::record::Record;
use super::{Counter, Counts, Family};

/// The numbers of a session, and where they are wanted.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    counts: RefCell<Counts>,
    /// Where they are added.
    places: RefCell<Vec<Place>>,
    /// How long all records together may still make us wait.
    patience: Cell<Duration>,
    /// Whether somebody has heard that something was not counted.
    has_complained: Cell<bool>,
}

/// One record that they are added to.
#[derive(Debug)]
struct Place {
    /// For people.
    name: String,
    record: Record,
    /// What was added already.
    added: Counts,
}

impl Place {
    fn new(name: String, record: Record) -> Self {
        Self { name, record, added: Counts::default() }
    }
}

impl Tally {
    /// Nothing is counted yet. If whoever started us wants the numbers, that is known by the environment.
    pub(crate) fn of_this_process() -> Self {
        let place = Record::inherited().map(|record| Place::new("listen".to_owned(), record));
        Self {
            started: Instant::now(),
            counts: RefCell::default(),
            places: RefCell::new(place.into_iter().collect()),
            patience: Cell::new(PATIENCE),
            has_complained: Cell::new(false),
        }
    }

    /// Has them added to the record in this file as well (`metrics_file`). Returns where they cannot be and why, if so.
    pub(crate) fn also_at(&self, path: &Path) -> Option<String> {
        let name = path.display().to_string();
        match self.patiently(|patience| Record::at(path, patience)) {
            Ok(record) => {
                self.places.borrow_mut().push(Place::new(name, record));
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

    /// Counts one more of what took since then.
    pub(crate) fn observe(&self, family: Family, since: Instant) {
        self.counts.borrow_mut().observe(family, since.elapsed());
    }

    /// Counts a reply that says no.
    pub(crate) fn refusal(&self, code: u16, status: Option<impl std::fmt::Display>) {
        self.counts.borrow_mut().refusal(code, status);
    }

    /// Counts the end of the session, which comes once.
    pub(crate) fn end(&self, how: Counter) {
        if self.counts.borrow().sum(Family::Sessions) == 0 {
            self.count(how);
            self.observe(Family::SessionTime, self.started);
        }
    }

    /// Adds what has been counted to every record where it is not yet. What cannot be added waits for the next time. The
    /// first time that this fails, it returns where and why: a count is not worth more than a line.
    pub(crate) fn hand_over(&self) -> Option<String> {
        let counts = self.counts.borrow();
        let mut complaint = None;
        for Place { name, record, added } in &mut *self.places.borrow_mut() {
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

    /// Does something that others can delay, as long as we still have patience with them.
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

/// How long a session waits in all for others that have a record locked, which they do for microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
