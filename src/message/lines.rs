//! Text that comes in pieces, line by line.

/// Puts pieces of text together to lines, for people to read.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
}

impl Lines {
    /// Takes a piece and gives every line that ends in it, its LF taken off. A line without an end is given in parts of
    /// [`MAX_LINE`] bytes, so that memory stays bounded.
    pub fn push<E>(&mut self, text: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            let content = part.strip_suffix(b"\n").unwrap_or(part);
            self.begun.extend_from_slice(content);
            while self.begun.len() > MAX_LINE {
                each(&self.begun[..MAX_LINE])?;
                self.begun.drain(..MAX_LINE);
            }
            if content.len() < part.len() {
                each(&self.begun)?;
                self.begun.clear();
            }
        }
        Ok(())
    }

    /// Gives what is left of the last line, if it has no end.
    pub fn finish<E>(&mut self, each: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match std::mem::take(&mut self.begun) {
            line if line.is_empty() => Ok(()),
            line => each(&line),
        }
    }
}

/// The longest piece of a line that is given at a time, in bytes. Even with every byte escaped it fits into a datagram
/// to syslog.
const MAX_LINE: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_no_difference() {
        let long = "x".repeat(MAX_LINE + 3);
        let text = format!("Subject: one line\n\nbody\n{long}\nno end");
        let expected: Vec<String> =
            ["Subject: one line", "", "body", &long[..MAX_LINE], "xxx", "no end"].map(str::to_owned).into();
        for piece in [1, 2, 7, 1000, 1 << 20] {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            let mut note = |line: &[u8]| {
                found.push(String::from_utf8_lossy(line).into_owned());
                Ok::<(), ()>(())
            };
            text.as_bytes().chunks(piece).try_for_each(|piece| lines.push(piece, &mut note)).unwrap();
            lines.finish(&mut note).unwrap();
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }
}
