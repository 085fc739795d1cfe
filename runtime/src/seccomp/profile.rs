//! Profiles in OCI's JSON (`defaultAction`, `syscalls`), as `localhostProfile` names them.

use super::default::program;
use super::numbers::number;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn compile(text: &[u8]) -> Result<Vec<BpfProgram>, String> {
    let profile: LinuxSeccomp = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut by_action: Vec<(SeccompAction, Rules)> = Vec::new();
    let mut all = Rules::new();
    for syscall in profile.syscalls().iter().flatten() {
        let what = action(syscall.action(), syscall.errno_ret())?;
        if what == default {
            continue;
        }
        let rule = conditions(syscall.args().as_deref().unwrap_or_default())?;
        // A name that this architecture lacks is for another one.
        for n in syscall.names().iter().filter_map(|name| number(name)) {
            let place = match by_action.iter().position(|(a, _)| *a == what) {
                Some(place) => place,
                None => {
                    by_action.push((what.clone(), Rules::new()));
                    by_action.len() - 1
                }
            };
            add(&mut by_action[place].1, n, rule.clone());
            add(&mut all, n, rule.clone());
        }
    }
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        programs.push(program(all, default, SeccompAction::Allow)?);
    }
    for (what, rules) in by_action.into_iter().filter(|(a, _)| *a != SeccompAction::Allow) {
        programs.push(program(rules, SeccompAction::Allow, what)?);
    }
    Ok(programs)
}

/// An empty list means the call whatever its arguments: once it is, it stays so.
fn add(rules: &mut Rules, number: i64, rule: Option<SeccompRule>) {
    match (rules.get_mut(&number), rule) {
        (Some(list), Some(rule)) if !list.is_empty() => list.push(rule),
        (Some(list), _) => list.clear(),
        (None, rule) => drop(rules.insert(number, rule.into_iter().collect())),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction, String> {
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => SeccompAction::Allow,
        LinuxSeccompAction::ScmpActErrno => SeccompAction::Errno(errno.unwrap_or(libc::EPERM.cast_unsigned())),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => SeccompAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => SeccompAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => SeccompAction::Trap,
        LinuxSeccompAction::ScmpActLog => SeccompAction::Log,
        LinuxSeccompAction::ScmpActTrace => SeccompAction::Trace(errno.unwrap_or(0)),
        LinuxSeccompAction::ScmpActNotify => return Err("SCMP_ACT_NOTIFY is not supported".into()),
    })
}

fn conditions(args: &[LinuxSeccompArg]) -> Result<Option<SeccompRule>, String> {
    if args.is_empty() {
        return Ok(None);
    }
    let one = |arg: &LinuxSeccompArg| {
        let (op, value) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
            LinuxSeccompOperator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
            LinuxSeccompOperator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
            LinuxSeccompOperator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
            LinuxSeccompOperator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
            LinuxSeccompOperator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
            // The profile's value is the mask, its second the outcome.
            LinuxSeccompOperator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
        };
        let index = u8::try_from(arg.index()).map_err(|_| format!("argument {} of a call", arg.index()))?;
        SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value).map_err(|e| e.to_string())
    };
    let list = args.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(list).map(Some).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_becomes_a_program() {
        let text = br#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],"syscalls":[
            {"names":["read","write","no_such_call"],"action":"SCMP_ACT_ALLOW"},
            {"names":["chmod"],"action":"SCMP_ACT_LOG"},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#;
        assert_eq!(compile(text).unwrap().len(), 2);
        let deny = br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
        assert_eq!(compile(deny).unwrap().len(), 1);
        assert!(compile(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#).unwrap().is_empty());
        assert!(compile(b"{").is_err());
    }

    #[test]
    fn a_call_allowed_whatever_its_arguments_stays_so() {
        let mut rules = Rules::new();
        let rule = || SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 1).unwrap()]).ok();
        add(&mut rules, 1, rule());
        add(&mut rules, 1, rule());
        assert_eq!(rules[&1].len(), 2);
        add(&mut rules, 1, None);
        add(&mut rules, 1, rule());
        assert!(rules[&1].is_empty());
    }
}
