//! HTML as text: links and the marks of lists stay, everything else is words and line ends.
//!
//! It takes time in proportion to the length, even if elements are opened and never closed.

use super::markup::{Tag, Token, Tokens, Within, decoded};

/// The words of an HTML text.
pub(super) fn to_text(html: &str) -> String {
    let mut page = Page::default();
    for token in Tokens::new(html) {
        match token {
            Token::Text(text) => page.words(&decoded(text, Within::Text)),
            Token::Verbatim(text) => page.words(text),
            Token::Start(tag) => page.start(&tag),
            Token::End(name) => page.end(&name),
        }
    }
    page.end_link();
    page.text
}

/// The plain text written so far, and what is open in it.
#[derive(Default)]
struct Page {
    text: String,
    /// How many elements are open whose content is not shown.
    hidden: usize,
    /// How many elements are open in which white space is kept.
    preformatted: usize,
    /// The lists that are open, up to [`MAX_LISTS`]: the number of the next item, or `None` for a list with marks.
    lists: Vec<Option<u32>>,
    /// The link that is open, and where its text begins.
    link: Option<(String, usize)>,
    /// Whether a blank is due before the next word.
    is_after_blank: bool,
}

impl Page {
    fn start(&mut self, tag: &Tag<'_>) {
        match tag.name.as_str() {
            name if is_hidden(name) => self.hidden += 1,
            "br" => self.break_line(),
            "hr" => {
                self.end_lines(1);
                self.text.push_str("---");
                self.end_lines(1);
            }
            "img" => self.words(&tag.attribute("alt").unwrap_or_default()),
            "a" => {
                self.end_link();
                if let Some(target) = tag.attribute("href").filter(|target| leads_somewhere(target)) {
                    self.link = Some((target, self.text.len()));
                }
            }
            "ul" | "ol" => {
                self.end_lines(1);
                if self.lists.len() < MAX_LISTS {
                    self.lists.push((tag.name == "ol").then_some(1));
                }
            }
            "li" => self.item(),
            "td" | "th" => self.is_after_blank = true,
            "pre" => {
                self.end_lines(2);
                self.preformatted += 1;
            }
            name => self.end_lines(lines_around(name)),
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            name if is_hidden(name) => self.hidden = self.hidden.saturating_sub(1),
            "a" => self.end_link(),
            "ul" | "ol" => {
                self.lists.pop();
                self.end_lines(1);
            }
            "pre" => {
                self.preformatted = self.preformatted.saturating_sub(1);
                self.end_lines(2);
            }
            name => self.end_lines(lines_around(name)),
        }
    }

    fn item(&mut self) {
        self.end_lines(1);
        self.text.extend(std::iter::repeat_n("  ", self.lists.len().saturating_sub(1)));
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.text.push_str(&format!("{number}. "));
                *number = number.saturating_add(1);
            }
            Some(None) | None => self.text.push_str("- "),
        }
    }

    fn words(&mut self, text: &str) {
        if self.hidden > 0 {
            return;
        }
        if self.preformatted > 0 {
            self.text.push_str(text);
            return;
        }
        for piece in text.split_inclusive(|character: char| character.is_ascii_whitespace()) {
            let word = piece.trim_end_matches(|character: char| character.is_ascii_whitespace());
            if !word.is_empty() {
                if self.is_after_blank && !self.text.is_empty() && !self.text.ends_with(['\n', ' ']) {
                    self.text.push(' ');
                }
                self.text.push_str(word);
                self.is_after_blank = false;
            }
            self.is_after_blank |= word.len() < piece.len();
        }
    }

    /// The link ends: its target is put behind its text, unless they are the same.
    fn end_link(&mut self) {
        if let Some((target, start)) = self.link.take() {
            let text = self.text.get(start..).unwrap_or_default().trim();
            if text.is_empty() {
                self.words(&format!(" {target}"));
            } else if !target.ends_with(text) {
                self.text.push_str(&format!(" <{target}>"));
            }
        }
    }

    fn break_line(&mut self) {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        // Any number of `<br>` makes one empty line at most.
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
        self.is_after_blank = false;
    }

    /// Makes the text end with so many line ends, unless it is empty.
    fn end_lines(&mut self, count: usize) {
        if count == 0 || self.text.is_empty() {
            return;
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        let there_are = self.text.bytes().rev().take(count).take_while(|byte| *byte == b'\n').count();
        self.text.extend(std::iter::repeat_n('\n', count - there_are));
        self.is_after_blank = false;
    }
}

/// Whether a link's target is worth showing.
fn leads_somewhere(target: &str) -> bool {
    !target.is_empty() && !target.starts_with('#') && target.len() <= MAX_TARGET
}

/// Elements whose content is not shown. `head` is not one of them: its end tag may be missing, and all of the page
/// would be hidden.
fn is_hidden(name: &str) -> bool {
    matches!(name, "script" | "style" | "template" | "title")
}

/// How many line ends there are before and behind an element.
fn lines_around(name: &str) -> usize {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" | "table" | "dl" => 2,
        "div" | "tr" | "dt" | "dd" | "section" | "article" | "header" | "footer" | "address" | "center" | "form"
        | "main" | "nav" | "aside" | "figure" | "caption" | "option" => 1,
        _ => 0,
    }
}

/// How many nested lists are told apart.
const MAX_LISTS: usize = 8;

/// The longest target that is shown, in bytes; a longer one tells nobody anything.
const MAX_TARGET: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_the_marks_of_lists_stay() {
        for (html, text) in [
            ("<p>Hello <b>world</b></p><p>again</p>", "Hello world\n\nagain\n\n"),
            ("a<br>b<BR/>c", "a\nb\nc"),
            ("<a href='https://a.example/x?a=1&amp;b=2'>Click  here</a>.", "Click here <https://a.example/x?a=1&b=2>."),
            ("<a href=https://a.example/>https://a.example/</a>", "https://a.example/"),
            ("<a href=mailto:fred@a.example>fred@a.example</a>", "fred@a.example"),
            ("see <a href='https://a.example/'><img src=x></a>", "see https://a.example/"),
            ("<ul><li>one<li>two</ul>", "- one\n- two\n"),
            ("<ol><li>one</li> <li>two<ul><li>deep</ul></li></ol>", "1. one\n2. two\n  - deep\n"),
            ("<style>p { color: red }</style><script>if (a<b) {}</script>text", "text"),
            ("<head><title>no</title></head><body>yes", "yes"),
            ("<head><meta charset=utf-8><body>yes", "yes"),
            ("yes<script/>no", "yes"),
            ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>", "a b\nc\n\n"),
            ("<pre>a\n  b &lt; c</pre>", "a\n  b < c\n\n"),
            ("5 < 6 &amp; &euro;&#x20ac; &nbsp;x", "5 < 6 & \u{20ac}\u{20ac} \u{a0}x"),
            ("<img alt='a cat'> <!-- <p>no --> <x <y>z", "a cat z"),
            ("<br><br><br><br>a<br><br><br><br>b", "\n\na\n\nb"),
            ("<a href='x'>never closed", "never closed <x>"),
            ("", ""),
        ] {
            assert_eq!(to_text(html), text, "{html}");
        }
    }

    #[test]
    fn what_is_never_closed_takes_no_longer_than_what_is() {
        for piece in [
            "<a href='x'>",
            "<x",
            "<x y=\"",
            "<!--",
            "<li>",
            "<ul>",
            "<pre>",
            "</p",
            "<!",
            "-",
            "<!-",
            "<p '",
            "&",
            "&notanentity",
            "<!----",
            "<br>",
            "<a href=\"'",
            "<script>",
        ] {
            // In the square of its length this would take minutes.
            to_text(&piece.repeat(64 * 1024 / piece.len()));
        }
    }

    #[test]
    fn blanks_are_looked_at_once() {
        for (blanks, tag) in [("\n", "<p>"), (" ", "<p>"), (" ", "<br>"), (" \n", "<li>"), ("\n", "x<p>")] {
            let (blanks, tags) = (blanks.repeat(64 * 1024), tag.repeat(32 * 1024));
            // In the square of its length this would take minutes.
            to_text(&format!("<pre>{blanks}</pre>{tags}"));
            to_text(&format!("<pre>{blanks}{tags}"));
        }
    }
}
