//! The page of a report, in a real browser. It needs the Debian packages chromium and chromium-driver.
//!
//! Screenshots are left below the target folder, for who wants to look at them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "modules of a test")]

mod browser;
mod scripted;

use std::path::Path;

use browser::Browser;
use scripted::example;
use serde_json::json;
use smtp_garden::report::{CaseEntry, Report, letter, page};

/// Where screenshots go.
const PICTURES: &str = env!("CARGO_TARGET_TMPDIR");

/// What is typed to hold a case again.
const AGAIN: &str = "smtp-garden run --report 'a report'";

fn open(browser: &Browser, report: &Report, name: &str) {
    let file = Path::new(PICTURES).join(name);
    std::fs::write(&file, page(report, AGAIN).unwrap()).unwrap();
    browser.open(&format!("file://{}", file.display()));
}

#[test]
fn the_page_is_whole_and_readable_in_a_browser() {
    let mut report = example();
    let is_opened = |entry: &&mut CaseEntry| entry.case.name == "octets/NUL-and-more";
    let opened = report.cases.iter_mut().find(is_opened).unwrap();
    let seen = opened.observations.iter_mut().find(|seen| seen.server == "nul").unwrap();
    seen.ended = Some("`queue` ended: exit status 3".into());
    let browser = Browser::start();
    // A new window has a page of its own, which asks for much.
    browser.open("about:blank");
    browser.requests();
    for (width, height) in [(1280, 900), (400, 800)] {
        browser.resize(width, height);
        open(&browser, &report, "page.html");
        is_whole(&browser, &report);
        is_readable(&browser, width);
        browser.screenshot(&Path::new(PICTURES).join(format!("page-{width}.png")));
        for part in ["grid", "letters"] {
            browser.run(&format!("document.getElementById('{part}').scrollIntoView({{block: 'center'}})"));
            browser.screenshot(&Path::new(PICTURES).join(format!("{part}-{width}.png")));
        }
        filters(&browser, &report);
        a_click_opens_a_case(&browser, &report, width);
        browser.run("document.getElementById('case').close()");
        assert_eq!(browser.console(), Vec::<String>::new(), "at {width} pixels");
    }
    let asked = browser.requests();
    assert!(
        !asked.is_empty() && asked.iter().all(|url| url.starts_with("file:") || url.starts_with("data:")),
        "{asked:?}"
    );
    // A page that cannot be read at all is told of as well, or the lines above would mean nothing.
    browser.run("setTimeout(() => { throw new Error('planted'); }, 0); return null;");
    while !browser.console().iter().any(|line| line.contains("planted")) {}
}

fn is_whole(browser: &Browser, report: &Report) {
    let servers: Vec<_> =
        report.servers.iter().filter(|server| server.absent.is_none()).map(|server| &server.name).collect();
    let shown =
        browser.run("return [...document.querySelectorAll('#grid thead th.server')].map((cell) => cell.textContent)");
    assert_eq!(shown, json!(servers));
    let rows = browser.run(
        "return [...document.querySelectorAll('#grid tbody tr')].map((row) => [row.dataset.case, \
         [...row.querySelectorAll('td')].map((cell) => cell.textContent).join('')])",
    );
    let expected: Vec<_> = report
        .cases
        .iter()
        .map(|entry| {
            let verdict =
                |server: &String| entry.judgement.verdict(server).map_or(' ', |verdict| letter(&verdict.stand));
            (&entry.case.name, servers.iter().map(|server| verdict(server)).collect::<String>())
        })
        .collect();
    assert_eq!(rows, json!(expected));
    assert_eq!(browser.run("return document.querySelectorAll('#findings > li').length"), report.findings.len());
    let absent = browser.run("return document.getElementById('servers').textContent");
    assert!(absent.as_str().unwrap().contains("did not take part: no package of it is to be had"));
}

/// The page fits into the window, and no text is small.
fn is_readable(browser: &Browser, width: u32) {
    let widths =
        browser.run("return [document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth]");
    assert_eq!(widths, json!([width, width, width]));
    let small = browser.run(
        "return [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility() \
         && [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) \
         && parseFloat(getComputedStyle(element).fontSize) < 13).map((element) => element.outerHTML.slice(0, 80))",
    );
    assert_eq!(small, json!([]));
    // A name in the grid is read from left to right, and there is room for letters beside it.
    let narrow = browser.run(
        "return [...document.querySelectorAll('#grid th.case button')] \
         .map((name) => name.getBoundingClientRect()).filter((box) => box.height > 60 || box.right > window.innerWidth / 2).length",
    );
    assert_eq!(narrow, 0);
    // What is wider than the window is in a box of its own that scrolls.
    let wide = browser.run(
        "return [...document.querySelectorAll('main *, dialog[open] *')].filter((element) => element.checkVisibility() \
         && element.getBoundingClientRect().right > window.innerWidth + 1 && !element.closest('.scrolls')) \
         .map((element) => element.outerHTML.slice(0, 80))",
    );
    assert_eq!(wide, json!([]));
}

fn filters(browser: &Browser, report: &Report) {
    let choose = |id: &str, value: &str| {
        browser.run(&format!(
            "const field = document.getElementById('{id}'); field.value = '{value}'; \
             field.dispatchEvent(new Event('input', {{bubbles: true}})); return null;"
        ))
    };
    let counts = || {
        browser.run(
            "return [document.querySelectorAll('#findings > li').length, document.querySelectorAll('#grid tbody tr').length]",
        )
    };
    let all = counts();
    choose("class", "header");
    assert_eq!(counts(), json!([1, 2]));
    choose("server", "nul");
    assert_eq!(counts(), json!([0, 0]));
    choose("class", "");
    choose("server", "");
    choose("search", "octets/nul");
    assert_eq!(counts()[1], 3);
    choose("search", "");
    assert_eq!(counts(), all);
    assert_eq!(all[1], report.cases.len());
}

fn a_click_opens_a_case(browser: &Browser, report: &Report, width: u32) {
    browser.click("#grid tr[data-case='octets/NUL-and-more'] td[data-server='nul']");
    // It is unpacked first.
    while browser.run("return document.getElementById('case').open") != true {}
    assert_eq!(browser.run("return document.getElementById('case-name').textContent"), "octets/NUL-and-more");
    assert_eq!(browser.run("return document.getElementById('one').value"), "nul");
    browser.screenshot(&Path::new(PICTURES).join(format!("case-{width}.png")));
    // The line that it left out, which the other kept; what a server said is text and not a part of the page.
    let lines = |kind: &str| {
        let lines = browser
            .run(&format!("return [...document.querySelectorAll('#details .{kind}')].map((line) => line.textContent)"));
        lines.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(lines("only-other").iter().any(|line| line.starts_with("+ 00 ")), "{:?}", lines("only-other"));
    assert!(lines("both").iter().any(|line| line.contains("<script>")), "{:?}", lines("both"));
    let text = browser.run("return document.getElementById('case-content').innerText");
    let text = text.as_str().unwrap();
    let servers: Vec<_> =
        report.servers.iter().filter(|server| server.absent.is_none()).map(|server| server.name.as_str()).collect();
    assert!(text.contains(&Report::command(AGAIN, "octets/NUL-and-more", &servers)), "{text}");
    assert!(text.contains("Beside it, `queue` ended: exit status 3."), "{text}");
    assert!(text.contains("C: RCPT TO:<user1@nul.garden>") && text.contains("S: 354 so it is"), "{text}");
    is_readable(browser, width);
    browser.run("document.querySelector('.two').scrollIntoView()");
    browser.screenshot(&Path::new(PICTURES).join(format!("transcript-{width}.png")));
    browser.run(
        "const other = document.getElementById('other'); other.value = 'nul'; \
                 other.dispatchEvent(new Event('change', {bubbles: true})); return null;",
    );
    assert_eq!(lines("only-other"), Vec::<String>::new());
    browser.click("#close");
    assert_eq!(browser.run("return document.getElementById('case').open"), false);
}
