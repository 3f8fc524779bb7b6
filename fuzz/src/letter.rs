//! A message as people see it: whatever it is, it is shown in bounded time and room, and nothing of it acts on a terminal.
//!
//! An input is a message.

use mailrecv::deliver::letter_lines;

use super::log::is_misleading;

/// Shows the message, and as much of it as if the rest had been left out.
pub fn check(input: &[u8]) {
    for (message, left_out) in [(input, 0), (&input[..input.len() / 2], input.len())] {
        let lines = letter_lines(message, left_out, MOST_LINES);
        assert!(lines.len() <= MOST_LINES + 300, "{} lines", lines.len());
        for line in &lines {
            let shown = line.for_a_person(false).to_string();
            assert!(!shown.contains(|character| is_misleading(character) && character != '\t'), "{shown:?}");
            // Each octet is shown as six at the most, and a character of one octet may become one of three.
            assert!(shown.len() <= 200_000, "a line of {} bytes", shown.len());
            let coloured = line.for_a_person(true).to_string();
            assert!(coloured.matches('\u{1b}').count() <= 2 && !coloured.contains('\n'), "{coloured:?}");
        }
    }
}

const MOST_LINES: usize = 200;
