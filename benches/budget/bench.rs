//! The turns that contestants take, and what they leave: rows of the table.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process};

use crate::contest::{Contestant, Session, build_do_nothing, build_mailrecv, install};
use crate::peer::Opening;
use crate::table::{Figure, Row, Table};
use crate::{Options, Result};

pub(crate) struct Bench {
    runs: usize,
    listener: TcpListener,
    /// Configs, mailboxes and the log; gone with the value.
    pub(crate) scratch: PathBuf,
    /// Copies of the contestants; gone likewise.
    programs: PathBuf,
    mailrecv: PathBuf,
    baseline: Option<PathBuf>,
    do_nothing: PathBuf,
    pub(crate) against: Option<Contestant>,
    time: Duration,
    pub(crate) rows: Vec<Row>,
    /// What is shown in a form of its own.
    pub(crate) tables: Vec<Table>,
    pub(crate) failures: Vec<String>,
}

/// What the turns of one contestant gave.
type Series<const N: usize> = Result<Vec<[f64; N]>>;

impl Bench {
    pub(crate) fn new(options: Options) -> Result<Self> {
        let against = options.against.as_deref().map(Contestant::from_command).transpose()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let scratch = options.dir.join(format!("budget-{}", process::id()));
        fs::create_dir(&scratch).map_err(|problem| format!("{}: {problem}", scratch.display()))?;
        let scratch = fs::canonicalize(scratch)?;
        // Programs below target/ in any case: where mail is written, they may not be allowed to run.
        let programs = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("installed-{}", process::id()));
        fs::create_dir(&programs)?;
        let do_nothing = build_do_nothing(&programs)?;
        let mailrecv = options.mailrecv.map_or_else(build_mailrecv, Ok)?;
        let mailrecv = install(&mailrecv, &programs, "mailrecv")?;
        let baseline = options.baseline.map(|program| install(&program, &programs, "mailrecv-before")).transpose()?;
        let (rows, tables, failures) = Default::default();
        Ok(Self {
            runs: options.runs,
            listener,
            scratch,
            programs,
            mailrecv,
            baseline,
            do_nothing,
            against,
            time: Duration::from_secs(options.seconds),
            rows,
            tables,
            failures,
        })
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs
    }

    /// For what takes long, or hardly varies.
    pub(crate) fn few_runs(&self) -> usize {
        (self.runs / 20).max(3)
    }

    /// How long whoever accepts connections is kept busy.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// The copy of mailrecv that is measured.
    pub(crate) fn program(&self) -> &Path {
        &self.mailrecv
    }

    /// Mailrecv with `rules`, in which `{dir}` stands for the scratch folder.
    pub(crate) fn mailrecv(&self, rules: &str) -> Result<Contestant> {
        let dir = self.scratch.display().to_string();
        let number = self.scratch.read_dir()?.count();
        let config = self.scratch.join(format!("{number}.conf"));
        let rules = rules.replace("{dir}", &dir);
        let text = format!(
            "domain localhost\nlogfile \"{dir}/log\"\nspool_dir \"{dir}\"\n\
             limit.fcrdns_check off\nlimit.smtp_data_size 60000000\n{rules}"
        );
        fs::write(&config, text)?;
        Ok(Contestant {
            name: "mailrecv".to_owned(),
            program: self.mailrecv.clone(),
            arguments: vec!["-c".to_owned(), config.display().to_string()],
            mailbox: Some(self.scratch.join("mailbox-mailrecv")),
            opening: Opening::default(),
        })
    }

    pub(crate) fn do_nothing(&self) -> Contestant {
        let name = "do-nothing".to_owned();
        let (arguments, opening) = Default::default();
        Contestant { name, program: self.do_nothing.clone(), arguments, mailbox: None, opening }
    }

    /// A session that nobody measures.
    pub(crate) fn try_out(&self, contestant: &Contestant) -> Result<()> {
        let mut session = Session::open(contestant, &self.listener)?;
        session.hello()?;
        session.quit()
    }

    /// What the disk costs: the same, but the mail is written and synced.
    pub(crate) fn do_nothing_durable(&self) -> Contestant {
        let mailbox = self.scratch.join("mailbox-do-nothing");
        Contestant {
            name: "do-nothing + fsync".to_owned(),
            program: self.do_nothing.clone(),
            arguments: vec!["-w".to_owned(), mailbox.display().to_string()],
            mailbox: Some(mailbox),
            opening: Opening::default(),
        }
    }

    pub(crate) fn contestants(&self, ours: &[Contestant]) -> Vec<Contestant> {
        ours.iter().chain(&self.against).cloned().collect()
    }

    /// The same with the older mailrecv, if there is one.
    fn before(&self, contestant: &Contestant) -> Option<Contestant> {
        let program = self.baseline.clone()?;
        Some(Contestant { program, ..contestant.clone() }.named(&format!("{} before", contestant.name)))
    }

    /// Takes a sample of each contestant in turn, and again, and adds a row for each that the first one, mailrecv, is
    /// compared with; the older mailrecv is one more. The first turn fills caches and does not count; a contestant that
    /// failed once is out.
    pub(crate) fn measure<const N: usize>(
        &mut self,
        figures: [Figure; N],
        runs: usize,
        contestants: &[Contestant],
        sample: impl Fn(&Contestant, &TcpListener) -> Result<[f64; N]>,
    ) {
        let before = contestants.first().and_then(|contestant| self.before(contestant));
        let contestants: Vec<_> = contestants.iter().chain(&before).collect();
        let mut taken: Vec<Series<N>> = contestants.iter().map(|_| Ok(Vec::new())).collect();
        for turn in 0..=runs {
            for place in 0..contestants.len() {
                // There and back again, so that nobody always comes behind the same one.
                let place = if turn % 2 == 0 { place } else { contestants.len() - 1 - place };
                let Ok(samples) = &mut taken[place] else { continue };
                match sample(contestants[place], &self.listener) {
                    Ok(values) if turn > 0 => samples.push(values),
                    Ok(_) => {}
                    Err(problem) => taken[place] = Err(problem),
                }
            }
        }
        for (contestant, series) in contestants.iter().zip(&taken) {
            if let Err(problem) = series {
                let what: Vec<_> = figures.iter().map(|figure| figure.what.as_str()).collect();
                self.failures.push(format!("{}: {}: {problem}", what.join("; "), contestant.name));
            }
        }
        for (place, figure) in figures.into_iter().enumerate() {
            for index in 1..contestants.len() {
                let pairs = pairs(place, &taken[0], &taken[index]);
                if pairs.is_empty() {
                    continue;
                }
                let target = match index {
                    _ if before.is_some() && index + 1 == contestants.len() => figure.unit.target_beside_older(),
                    // The first rival is the yardstick that targets speak of.
                    1 => figure.target,
                    _ => None,
                };
                let figure = Figure { target, ..figure.clone() };
                self.rows.push(Row { figure, rival: contestants[index].name.clone(), pairs });
            }
        }
    }
}

/// One figure of two contestants, turn by turn.
fn pairs<const N: usize>(place: usize, ours: &Series<N>, theirs: &Series<N>) -> Vec<(f64, f64)> {
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return Vec::new() };
    ours.iter().zip(theirs).map(|(ours, theirs)| (ours[place], theirs[place])).collect()
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
        let _ = fs::remove_dir_all(&self.programs);
    }
}
