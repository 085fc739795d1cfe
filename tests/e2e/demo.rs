//! The main job.

use crate::support::{ORCHD, root, stderr, stdout};
use std::process::{Command, Stdio};

#[test]
fn the_demos_eight_steps_hold_and_leave_nothing() {
    if !root("the demo") {
        return;
    }
    let output = Command::new(ORCHD).arg("demo").stdin(Stdio::null()).output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    for step in 1..=8 {
        assert!(text.contains(&format!("\n{step}. ")) || text.starts_with(&format!("{step}. ")), "step {step} is missing:\n{text}");
    }
    assert!(text.contains("0 failed") && text.contains("All eight steps held"), "{text}");
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !root("the demo") {
        return;
    }
    let mut child = Command::new(ORCHD).arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Interrupted once pods are being started.
    let mut seen = String::new();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    while !seen.contains("3. ") {
        seen.push_str(&lines.next().expect("the demo goes on").unwrap());
        seen.push('\n');
    }
    // SAFETY: the child has not been waited for, so the pid is its own.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    let errors = stderr(&output);
    assert!(errors.contains("interrupted"), "{errors}\n{}", rest.join("\n"));
    assert!(!errors.contains("left behind"), "{errors}");
}
