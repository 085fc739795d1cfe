"""python's etcd client (PyPI: etcd-sdk-python), unmodified, against the store. Arguments: host, port."""

import sys
import threading

import pyetcd

client = pyetcd.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=20)


def check(seen, wanted, what):
    if seen != wanted:
        sys.exit(f"{what}: {seen!r}, not {wanted!r}")


client.put("/py/a", "1")
check(client.get("/py/a")[0], b"1", "get")
check(client.get("/py/none")[0], None, "get of nothing")
for at in range(3):
    client.put(f"/py/list/{at}", str(at))
check([value for value, _ in client.get_prefix("/py/list/")], [b"0", b"1", b"2"], "prefix")
check([value for value, _ in client.get_prefix("/py/list/", sort_order="descend")], [b"2", b"1", b"0"], "sorted")
check(client.put_if_not_exists("/py/a", "2"), False, "put if not there")
check(client.replace("/py/a", "1", "3"), True, "replace")
check(client.replace("/py/a", "1", "4"), False, "replace what is not there")
done, _ = client.transaction(
    compare=[client.transactions.value("/py/a") == "3"],
    success=[client.transactions.put("/py/a", "5"), client.transactions.get("/py/a")],
    failure=[client.transactions.delete("/py/a")],
)
check(done, True, "transaction")
check(client.delete("/py/a"), True, "delete")
check(client.delete_prefix("/py/list/").deleted, 3, "delete of a prefix")

events, cancel = client.watch("/py/w")
writer = threading.Thread(target=lambda: [client.put("/py/w", str(at)) for at in range(3)] and client.delete("/py/w"))
writer.start()
seen = [next(events) for _ in range(4)]
cancel()
writer.join()
check([event.value for event in seen[:3]], [b"0", b"1", b"2"], "watch")
check(type(seen[3]).__name__, "DeleteEvent", "watch of a deletion")

lease = client.lease(30)
client.put("/py/leased", "v", lease=lease)
check(lease.granted_ttl, 30, "granted")
check(list(lease.keys), [b"/py/leased"], "keys of a lease")
list(lease.refresh())
lease.revoke()
check(client.get("/py/leased")[0], None, "key of a lease that is gone")

with client.lock("py", ttl=20) as lock:
    check(lock.is_acquired(), True, "lock")
check(client.status().leader is not None, True, "status")
check(len(list(client.members)) >= 1, True, "members")
check(client.hash() is not None, True, "hash")
client.defragment()
print("fine")
