//! Debian's Chromium without a screen, told what to do by its chromedriver (W3C WebDriver).
//!
//! WebDriver is JSON over HTTP/1.1 on a connection of this machine: that is little enough to speak it here, and no
//! library for it comes without an asynchronous runtime.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Starts chromedriver, and gives the port that it listens on. It takes a port that is free for IPv4 and ends if
/// somebody has the same one for IPv6; then it is started again.
fn start_driver() -> (Child, u16) {
    const TRIES: usize = 10;
    let mut said = Vec::new();
    for _ in 0..TRIES {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: install the Debian packages chromium and chromium-driver");
        for line in BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let port = line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').parse());
            if let Some(Ok(port)) = port {
                return (driver, port);
            }
            said.push(line);
        }
        driver.wait().unwrap();
    }
    panic!("chromedriver does not say on which port it listens: {said:#?}");
}

pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let (driver, port) = start_driver();
        let profile = TempDir::new().unwrap();
        let profile_folder = format!("--user-data-dir={}", profile.path().display());
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        // The tests run as root, and Chromium's sandbox does not.
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", &profile_folder];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.ask("POST", "/session", Some(&capabilities));
        browser.session = session["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    /// A window of this size, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.developer("Emulation.setDeviceMetricsOverride", &metrics);
    }

    pub fn open(&self, url: &str) {
        self.in_session("POST", "/url", Some(&json!({"url": url})));
    }

    /// What this piece of JavaScript returns.
    pub fn run(&self, script: &str) -> Value {
        self.in_session("POST", "/execute/sync", Some(&json!({"script": script, "args": []})))
    }

    /// A click as of a person: where the element is, and on whatever lies on top there.
    pub fn click(&self, selector: &str) {
        let found = self.in_session("POST", "/element", Some(&json!({"using": "css selector", "value": selector})));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let id = id.unwrap_or_else(|| panic!("{selector}: {found}")).to_owned();
        let done = self.in_session("POST", &format!("/element/{id}/click"), Some(&json!({})));
        assert!(done.is_null(), "a click on {selector}: {done}");
    }

    /// What the page wrote to the console since it was asked last, errors in it and what could not be loaded among
    /// that.
    pub fn console(&self) -> Vec<String> {
        let entries = self.in_session("POST", "/se/log", Some(&json!({"type": "browser"})));
        let entries = entries.as_array().expect("a log");
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// The addresses of all that was asked for since the last time.
    pub fn requests(&self) -> Vec<String> {
        let entries = self.in_session("POST", "/se/log", Some(&json!({"type": "performance"})));
        let entries = entries.as_array().expect("a log");
        entries
            .iter()
            .filter_map(|entry| {
                let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
                let is_request = message["message"]["method"] == "Network.requestWillBeSent";
                let url = message["message"]["params"]["request"]["url"].as_str()?;
                is_request.then(|| url.to_owned())
            })
            .collect()
    }

    /// What is in the window, as a PNG.
    pub fn screenshot(&self, file: &Path) {
        let encoded = self.in_session("GET", "/screenshot", None);
        let encoded = encoded.as_str().expect("a picture");
        std::fs::write(file, base64::engine::general_purpose::STANDARD.decode(encoded).unwrap()).unwrap();
    }

    fn developer(&self, command: &str, parameters: &Value) {
        self.in_session("POST", "/goog/cdp/execute", Some(&json!({"cmd": command, "params": parameters})));
    }

    fn in_session(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.ask(method, &format!("/session/{}{path}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("chromedriver listens");
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        // The driver keeps the connection, whatever it is asked: the body is as long as it says.
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).unwrap() > 0, "no answer to {method} {path}");
            let Some((name, value)) = line.split_once(':') else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut json = vec![0; length];
        stream.read_exact(&mut json).unwrap();
        let json = str::from_utf8(&json).unwrap();
        let answer: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
        answer["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser with its session.
        if !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.ask("DELETE", &path, None)));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
