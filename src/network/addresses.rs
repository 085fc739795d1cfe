//! Addresses of this node's pods: pure, in memory, rebuilt from the live pods at start.

use super::{Cidr, NetworkError};
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// The first address of a range is its network's, the second is kept for a gateway, the last is for broadcast.
const FIRST: u32 = 2;

/// Hands out addresses round robin, so that one just freed is taken again as late as possible: whoever still holds an
/// old connection to it should meet nobody rather than a stranger.
#[derive(Debug)]
pub struct Addresses {
    base: u32,
    size: u32,
    next: u32,
    of_pod: HashMap<String, Ipv4Addr>,
    taken: Vec<bool>,
}

impl Addresses {
    /// # Errors
    /// The range is not one that a node can have (/8 to /30).
    pub fn new(range: Cidr) -> Result<Self, NetworkError> {
        if !(8..=30).contains(&range.prefix) {
            return Err(NetworkError::Invalid(format!("pod range {range}: the prefix must be 8 to 30")));
        }
        let size = 1 << (32 - range.prefix);
        let base = range.network().to_bits();
        Ok(Self { base, size, next: FIRST, of_pod: HashMap::new(), taken: vec![false; size as usize] })
    }

    pub fn get(&self, pod: &str) -> Option<Ipv4Addr> {
        self.of_pod.get(pod).copied()
    }

    /// Notes that a pod found at start has this address. One outside the range (it was another at the pod's start) is
    /// kept too.
    pub fn reserve(&mut self, pod: &str, address: Ipv4Addr) {
        if let Some(slot) = self.slot(address) {
            self.taken[slot as usize] = true;
            if slot >= self.next {
                self.next = slot + 1;
            }
        }
        self.of_pod.insert(pod.to_owned(), address);
    }

    /// The pod's address: the one it has, else the next free one.
    ///
    /// # Errors
    /// None is free.
    pub fn take(&mut self, pod: &str) -> Result<Ipv4Addr, NetworkError> {
        if let Some(address) = self.get(pod) {
            return Ok(address);
        }
        let usable = self.size - 1 - FIRST;
        let start = if (FIRST..self.size - 1).contains(&self.next) { self.next } else { FIRST };
        let slot = (0..usable).map(|i| FIRST + (start - FIRST + i) % usable).find(|slot| !self.taken[*slot as usize]);
        let Some(slot) = slot else {
            return Err(NetworkError::Exhausted(format!("all {usable} addresses of {}/{} are taken", Ipv4Addr::from_bits(self.base), 32 - self.size.ilog2())));
        };
        self.taken[slot as usize] = true;
        self.next = slot + 1;
        let address = Ipv4Addr::from_bits(self.base + slot);
        self.of_pod.insert(pod.to_owned(), address);
        Ok(address)
    }

    pub fn free(&mut self, pod: &str) {
        if let Some(slot) = self.of_pod.remove(pod).and_then(|address| self.slot(address)) {
            self.taken[slot as usize] = false;
        }
    }

    fn slot(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.base).filter(|slot| *slot < self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    #[test]
    fn a_freed_address_comes_last() {
        let mut addresses = Addresses::new(range("10.244.3.0/29")).unwrap();
        let taken: Vec<_> = ["a", "b", "c"].iter().map(|pod| addresses.take(pod).unwrap().octets()[3]).collect();
        assert_eq!(taken, [2, 3, 4]);
        addresses.free("a");
        assert_eq!(addresses.take("d").unwrap().octets()[3], 5);
        assert_eq!(addresses.take("d").unwrap().octets()[3], 5);
        assert_eq!(addresses.take("e").unwrap().octets()[3], 6);
        assert_eq!(addresses.take("f").unwrap().octets()[3], 2);
        assert!(matches!(addresses.take("g"), Err(NetworkError::Exhausted(_))));
    }

    #[test]
    fn live_pods_keep_theirs() {
        let mut addresses = Addresses::new(range("10.244.3.0/24")).unwrap();
        addresses.reserve("live", Ipv4Addr::new(10, 244, 3, 7));
        addresses.reserve("moved", Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(addresses.take("live").unwrap(), Ipv4Addr::new(10, 244, 3, 7));
        assert_eq!(addresses.take("moved").unwrap(), Ipv4Addr::new(10, 9, 9, 9));
        assert_eq!(addresses.take("new").unwrap(), Ipv4Addr::new(10, 244, 3, 8));
        addresses.free("moved");
        assert!(Addresses::new(range("10.0.0.0/31")).is_err());
    }

    proptest! {
        #[test]
        fn no_two_pods_share(steps in proptest::collection::vec((0u8..12, any::<bool>()), 0..80)) {
            let mut addresses = Addresses::new(range("10.1.2.16/28")).unwrap();
            let mut held: HashMap<u8, Ipv4Addr> = HashMap::new();
            for (pod, add) in steps {
                if add {
                    let address = addresses.take(&pod.to_string()).unwrap();
                    let bits = address.octets();
                    prop_assert!(bits[..3] == [10, 1, 2] && (18..31).contains(&bits[3]));
                    prop_assert!(held.iter().all(|(other, a)| *other == pod || *a != address));
                    held.insert(pod, address);
                } else {
                    addresses.free(&pod.to_string());
                    held.remove(&pod);
                }
            }
        }
    }
}
