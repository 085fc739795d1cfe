//! Who may join as a node, and what those are told who may not.

use crate::support::{Lab, ORCHD, root, stderr};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a node on the client's host that must not get in; returns its one line.
fn refused(lab: &Lab, token: &Path) -> String {
    let mut command = Command::new(ORCHD);
    command.args(["lab", "--dir"]).arg(&lab.dir).args(["exec", "client", "--", ORCHD, "node", "--name", "intruder"]);
    command.args(["--server", "https://10.251.0.11:6443", "--data-dir"]).arg(lab.dir.join("intruder")).arg("--token-file").arg(token);
    let output = command.env("ORCHD_LOG", "off").stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success());
    let text = stderr(&output);
    assert_eq!(text.trim_end().lines().count(), 1, "one clear line, not:\n{text}");
    std::fs::remove_dir_all(lab.dir.join("intruder")).unwrap();
    text
}

#[test]
fn a_node_without_the_right_token_is_told_so_and_ends() {
    if !root("joining with wrong tokens") {
        return;
    }
    let lab = Lab::start("tokens", 1, 0);
    let right = std::fs::read_to_string(lab.dir.join("m1/node-token")).unwrap();
    assert_eq!(right, std::fs::read_to_string(lab.dir.join("node-token")).unwrap());
    let file = lab.dir.join("token");
    let with = |text: &str| {
        std::fs::write(&file, text).unwrap();
        refused(&lab, &file)
    };
    let flipped = |line: &str| {
        let (at, digit) = line.char_indices().last().unwrap();
        format!("{}{}", &line[..at], if digit == '0' { '1' } else { '0' })
    };
    let (hash, token) = right.trim_end().split_once('\n').unwrap();
    let text = with(&format!("{}\n{token}\n", flipped(hash)));
    assert!(text.contains("shows the CA sha256:") && text.contains("another cluster's"), "{text}");
    let text = with(&format!("{hash}\n{}\n", flipped(token)));
    assert!(text.contains("do not know the node token"), "{text}");
    let text = with("nonsense");
    assert!(text.contains("is no node token"), "{text}");
    std::fs::remove_file(&file).unwrap();
    let text = refused(&lab, &file);
    assert!(text.contains("cannot read the node token"), "{text}");
}
