//! `orchd member`: who belongs to the store's group, asked and told through a running master's socket.

use super::master::SOCKET;
use super::{CliError, DEFAULT_DATA_DIR};
use clap::{Args, Subcommand};
use orchd_store::etcd::client::Connection;
use orchd_store::etcd::pb::etcdserverpb as pb;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub struct MemberArgs {
    #[command(subcommand)]
    verb: MemberVerb,
    /// The data dir of a master that runs on this machine.
    #[arg(long, global = true, default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
}

#[derive(Subcommand)]
enum MemberVerb {
    /// Shows the members: id, state, name, addresses.
    List,
    /// Makes room for a member that is started next, under this name. It learns what there is, and then votes.
    Add {
        name: String,
        /// Where the others will reach it.
        #[arg(long)]
        peer_address: String,
        /// It does not vote until it is promoted.
        #[arg(long)]
        learner: bool,
    },
    /// Removes a member for good; its data dir is of no more use.
    Remove { id: String },
    /// Gives a learner its vote.
    Promote { id: String },
    /// Has another member lead.
    MoveLeader { id: String },
}

/// Connects to the store of the master whose data dir this is.
///
/// # Errors
/// None runs.
pub async fn connect(data_dir: &Path) -> Result<Connection, CliError> {
    let socket = data_dir.join(SOCKET);
    Connection::unix(&socket)
        .await
        .map_err(|e| CliError::new(format!("no master answers at {} (is one running with this --data-dir?)", socket.display()), e))
}

/// What the store answered, in its words.
pub fn refused(what: &str) -> impl Fn(tonic::Status) -> CliError {
    let what = format!("cannot {what}");
    move |status| CliError::text(format!("{what}: {}", status.message()))
}

/// # Errors
/// The store refuses; the text says why.
pub async fn run(args: MemberArgs) -> Result<(), CliError> {
    let connection = connect(&args.data_dir).await?;
    let mut cluster = connection.cluster();
    match args.verb {
        MemberVerb::List => {
            let listed = cluster.member_list(pb::MemberListRequest { linearizable: false }).await.map_err(refused("list the members"))?;
            show(&listed.into_inner().members);
        }
        MemberVerb::Add { name, peer_address, learner } => {
            let request = pb::MemberAddRequest { peer_ur_ls: vec![format!("https://{peer_address}")], is_learner: learner, name };
            let added = cluster.member_add(request).await.map_err(refused("add the member"))?.into_inner();
            let id = added.member.map(|member| member.id).unwrap_or_default();
            println!("Member {id:x} added");
        }
        MemberVerb::Remove { id } => {
            let number = parse(&id)?;
            cluster.member_remove(pb::MemberRemoveRequest { id: number }).await.map_err(refused("remove the member"))?;
            println!("Member {number:x} removed");
        }
        MemberVerb::Promote { id } => {
            let number = parse(&id)?;
            cluster.member_promote(pb::MemberPromoteRequest { id: number }).await.map_err(refused("promote the member"))?;
            println!("Member {number:x} promoted");
        }
        MemberVerb::MoveLeader { id } => {
            let target_id = parse(&id)?;
            let request = pb::MoveLeaderRequest { target_id };
            connection.maintenance().move_leader(request).await.map_err(refused("move the leadership"))?;
            println!("Leadership moved to {target_id:x}");
        }
    }
    Ok(())
}

fn parse(id: &str) -> Result<u64, CliError> {
    u64::from_str_radix(id, 16).map_err(|e| CliError::new(format!("{id} is no member's id (a number in base 16)"), e))
}

fn show(members: &[pb::Member]) {
    let rows = members.iter().map(|member| {
        let state = if member.name.is_empty() { "unstarted" } else { "started" };
        [
            format!("{:x}", member.id),
            state.to_owned(),
            member.given_name.clone(),
            member.peer_ur_ls.join(","),
            member.client_ur_ls.join(","),
            member.is_learner.to_string(),
        ]
    });
    print!("{}", table(["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"], rows));
}

/// Rows in a frame, as etcdctl prints them.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().collect();
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([head[at].len()]).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let rule = format!("+{}\n", widths.map(|width| format!("{}+", "-".repeat(width + 2))).concat());
    let line = |cells: [&str; N]| {
        let cells: [String; N] = std::array::from_fn(|at| format!(" {:>width$} |", cells[at], width = widths[at]));
        format!("|{}\n", cells.concat())
    };
    let lines: String = rows.iter().map(|row| line(std::array::from_fn(|at| row[at].as_str()))).collect();
    format!("{rule}{}{rule}{lines}{rule}", line(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_what_it_holds() {
        let shown = table(["ID", "NAME"], [["1".into(), "first".into()], ["22222".into(), "b".into()]]);
        let wanted = "+-------+-------+\n|    ID |  NAME |\n+-------+-------+\n|     1 | first |\n| 22222 |     b |\n+-------+-------+\n";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn ids_are_in_base_16() {
        assert_eq!(parse("ff").unwrap(), 255);
        assert!(parse("xyz").is_err());
    }
}
