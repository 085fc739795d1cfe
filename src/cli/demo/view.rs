//! What a person sees of the demo: a live line on a terminal, plain lines otherwise.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(80);

pub(super) struct View {
    bar: Option<ProgressBar>,
    /// The last progress that a log has seen: repeated news is none.
    last: String,
    started: Instant,
    step: Instant,
}

impl View {
    pub fn new() -> Self {
        let now = Instant::now();
        let bar = std::io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("   {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, last: String::new(), started: now, step: now }
    }

    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => println!("{text}"),
        }
    }

    /// Begins a step.
    pub fn step(&mut self, number: usize, title: &str) {
        self.step = Instant::now();
        self.line(&format!("{number}. {title}"));
    }

    /// What is being waited for.
    pub fn progress(&mut self, text: String) {
        if text == self.last {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.clone()),
            None => println!("   … {text}"),
        }
        self.last = text;
    }

    /// Ends a step that held.
    pub fn done(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message("");
        }
        self.last.clear();
        self.line(&format!("   ok  {what} ({})", seconds(self.step.elapsed())));
    }

    pub fn total(&self) -> String {
        seconds(self.started.elapsed())
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

pub(super) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) { format!("{} ms", duration.as_millis()) } else { format!("{:.1} s", duration.as_secs_f64()) }
}
