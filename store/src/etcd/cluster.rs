//! Cluster: who the members are. Addresses go out as URLs, and come in as such. May import: `etcd`, `handle`.

use super::Face;
use super::pb::etcdserverpb as pb;
use super::status::{MEMBER_BAD_URLS, Status};
use crate::cluster::Member;

const SCHEMES: [&str; 2] = ["https://", "http://"];

impl Face {
    pub async fn member_list(&self, request: pb::MemberListRequest) -> Result<pb::MemberListResponse, Status> {
        self.needs_voter()?;
        if request.linearizable {
            self.store.read_barrier().await?;
        }
        Ok(pb::MemberListResponse { header: self.header_now(), members: self.members() })
    }

    pub async fn member_add(&self, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, Status> {
        self.needs_voter()?;
        let member = self.store.member_add(&request.name, addresses(request.peer_ur_ls)?, request.is_learner).await?;
        Ok(pb::MemberAddResponse { header: self.header_now(), member: Some(shown(member)), members: self.members() })
    }

    pub async fn member_remove(&self, request: pb::MemberRemoveRequest) -> Result<pb::MemberRemoveResponse, Status> {
        self.needs_voter()?;
        self.store.member_remove(request.id).await?;
        Ok(pb::MemberRemoveResponse { header: self.header_now(), members: self.members() })
    }

    pub async fn member_update(&self, request: pb::MemberUpdateRequest) -> Result<pb::MemberUpdateResponse, Status> {
        self.needs_voter()?;
        self.store.member_update(request.id, addresses(request.peer_ur_ls)?).await?;
        Ok(pb::MemberUpdateResponse { header: self.header_now(), members: self.members() })
    }

    pub async fn member_promote(&self, request: pb::MemberPromoteRequest) -> Result<pb::MemberPromoteResponse, Status> {
        self.needs_voter()?;
        self.store.member_promote(request.id).await?;
        Ok(pb::MemberPromoteResponse { header: self.header_now(), members: self.members() })
    }

    fn members(&self) -> Vec<pb::Member> {
        self.store.members().into_iter().map(shown).collect()
    }
}

fn shown(member: Member) -> pb::Member {
    let peer_ur_ls = member.peer_addresses.into_iter().map(|address| format!("https://{address}")).collect();
    pb::Member {
        id: member.id,
        name: if member.started { member.name.clone() } else { String::new() },
        peer_ur_ls,
        client_ur_ls: member.client_addresses,
        is_learner: member.learner,
        given_name: member.name,
    }
}

/// Hosts and ports of URLs.
fn addresses(urls: Vec<String>) -> Result<Vec<String>, Status> {
    if urls.is_empty() {
        return Err(MEMBER_BAD_URLS);
    }
    urls.iter().map(|url| address(url).map(str::to_owned)).collect()
}

fn address(url: &str) -> Result<&str, Status> {
    let address = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or(MEMBER_BAD_URLS)?;
    let (host, port) = address.rsplit_once(':').ok_or(MEMBER_BAD_URLS)?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(MEMBER_BAD_URLS);
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_reached_by_host_and_port() {
        assert_eq!(address("http://10.0.0.1:2380"), Ok("10.0.0.1:2380"));
        assert_eq!(address("https://[::1]:6444"), Ok("[::1]:6444"));
        for wrong in ["10.0.0.1:2380", "ftp://a:1", "http://a", "http://a:b", "http://:1", "http://a:1/path", ""] {
            assert_eq!(address(wrong), Err(MEMBER_BAD_URLS), "{wrong}");
        }
        assert_eq!(addresses(vec![]), Err(MEMBER_BAD_URLS));
    }
}
