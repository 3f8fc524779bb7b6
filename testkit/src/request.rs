//! The command line of a test program that has no harness: names select its parts, as libtest's filters select tests, and
//! `--long` is its own.

/// How long a scenario may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a part of the tests.
    Short,
    /// On its own, for as long as it takes.
    Long,
}

/// What the command line asks for, as libtest would read it. What else Cargo hands to tests is taken and ignored.
pub struct Request {
    /// `--long`.
    pub form: Form,
    /// `--list`: only the names.
    pub list: bool,
    /// `--ignored`: only what is not run otherwise, and there is nothing like that.
    only_ignored: bool,
    exact: bool,
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Request {
    /// What the arguments of this process say.
    pub fn of_command_line() -> Self {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut request = Self {
            form: Form::Short,
            list: false,
            only_ignored: false,
            exact: false,
            filters: Vec::new(),
            skipped: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--long" => request.form = Form::Long,
                "--list" => request.list = true,
                "--ignored" => request.only_ignored = true,
                "--exact" => request.exact = true,
                "--skip" => request.skipped.extend(arguments.next()),
                option if LIBTEST_OPTIONS_WITH_VALUE.contains(&option) => drop(arguments.next()),
                option if option.starts_with('-') => {}
                _ => request.filters.push(argument),
            }
        }
        request
    }

    /// Whether the part of this name is to run.
    pub fn selects(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { filter == name } else { name.contains(filter.as_str()) };
        let wanted = self.filters.is_empty() || self.filters.iter().any(matches);
        wanted && !self.skipped.iter().any(matches) && !self.only_ignored
    }
}

/// Options of libtest that may have their value in the next argument.
const LIBTEST_OPTIONS_WITH_VALUE: &[&str] =
    &["--test-threads", "--color", "--format", "--logfile", "--shuffle-seed", "-Z"];
