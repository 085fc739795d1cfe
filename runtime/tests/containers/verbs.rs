//! What the test binary does inside a container: it is the image's only program.

// A program that only calls the kernel and waits; nothing of it is the product's.
#![allow(clippy::undocumented_unsafe_blocks, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::time::Duration;

pub fn run(args: &[String]) -> i32 {
    let arg = |i: usize| args.get(i).map(String::as_str).unwrap_or_default();
    match arg(0) {
        "exit" => return arg(1).parse().unwrap(),
        "sleep" => std::thread::sleep(Duration::from_secs(arg(1).parse().unwrap())),
        "echo" => println!("{}", args[1..].join(" ")),
        "error" => eprintln!("{}", args[1..].join(" ")),
        "env" => std::env::vars().for_each(|(k, v)| println!("{k}={v}")),
        "cwd" => println!("{}", std::env::current_dir().unwrap().display()),
        "read" => match std::fs::read_to_string(arg(1)) {
            Ok(text) => print!("{text}"),
            Err(e) => return complain(&e),
        },
        "write" => {
            if let Err(e) = std::fs::write(arg(1), arg(2)) {
                return complain(&e);
            }
        }
        "list" => {
            let mut names: Vec<String> =
                std::fs::read_dir(arg(1)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        "cat" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            print!("{text}");
        }
        "alloc" => {
            let mut blocks = Vec::new();
            for _ in 0..arg(1).parse().unwrap() {
                blocks.push(vec![1u8; 1 << 20]);
            }
            println!("{}", blocks.len());
        }
        "spam" => {
            let mut out = std::io::stdout().lock();
            (0..arg(1).parse::<u32>().unwrap()).for_each(|n| writeln!(out, "line {n}").unwrap());
        }
        "term" => return until_term(),
        "unshare" => return report(unsafe { libc::unshare(libc::CLONE_NEWUTS) }),
        "mknod-open" => return mknod_open(arg(1)),
        "mount" => return mount(arg(1)),
        "tty" => return tty(),
        "child" => return child(),
        other => {
            eprintln!("no such verb: {other}");
            return 64;
        }
    }
    0
}

fn complain(e: &std::io::Error) -> i32 {
    println!("{e}");
    1
}

fn report(done: i32) -> i32 {
    if done == 0 { 0 } else { complain(&std::io::Error::last_os_error()) }
}

/// Ends with 7 on SIGTERM.
fn until_term() -> i32 {
    extern "C" fn end(_: i32) {
        unsafe { libc::_exit(7) };
    }
    unsafe { libc::signal(libc::SIGTERM, end as *const () as usize) };
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
    0
}

/// Makes a node of the memory device and opens it.
fn mknod_open(path: &str) -> i32 {
    let name = std::ffi::CString::new(path).unwrap();
    if unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 1)) } != 0 {
        return complain(&std::io::Error::last_os_error());
    }
    match std::fs::File::open(path) {
        Ok(_) => 0,
        Err(e) => complain(&e),
    }
}

/// Mounts a tmpfs and makes a file in it.
fn mount(path: &str) -> i32 {
    let none: Option<&str> = None;
    let done = nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), nix::mount::MsFlags::empty(), none);
    match done.map_err(std::io::Error::from).and_then(|()| std::fs::write(format!("{path}/made"), "")) {
        Ok(()) => 0,
        Err(e) => complain(&e),
    }
}

fn tty() -> i32 {
    use std::io::{BufRead, IsTerminal};
    print!("{} {} ", std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
    println!("{}", std::fs::read_link("/proc/self/fd/0").unwrap().display());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &raw mut size) };
        println!("got {line} {}x{}", size.ws_col, size.ws_row);
        if line == "end" {
            return 3;
        }
    }
    0
}

/// Leaves a child behind that sleeps.
fn child() -> i32 {
    if unsafe { libc::fork() } == 0 {
        std::thread::sleep(Duration::from_secs(600));
        return 0;
    }
    println!("left one");
    0
}
