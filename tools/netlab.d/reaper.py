"""Ends the mappings of a router of the kind "life" when they are so many seconds old, busy or not.

Run in the router's namespace.  The map element goes first, the kernel's entry second: the other way round an
outbound packet in between would learn the old port again.
"""

import json
import subprocess
import sys
import time

LOOK_SECONDS = 0.5
MAP_SECONDS = 3600  # rules.LIFE_MAP_SECONDS: age is this less what is left


def elements():
    """(host, port, external address, external port, age in seconds) of each mapping."""
    done = subprocess.run(["nft", "-j", "list", "map", "ip", "nat", "out"], capture_output=True, text=True)
    if done.returncode != 0:
        return
    for item in json.loads(done.stdout)["nftables"]:
        for pair in item.get("map", {}).get("elem", []):
            key, value = pair
            left = key["elem"].get("expires", MAP_SECONDS)
            host, port = key["elem"]["val"]["concat"]
            yield host, port, value["concat"][0], value["concat"][1], MAP_SECONDS - left


def main():
    life = float(sys.argv[1])
    while True:
        for host, port, outside, outside_port, age in elements():
            if age < life:
                continue
            entry = "%s . %s : %s . %s" % (host, port, outside, outside_port)
            subprocess.run(["nft", "delete element ip nat out { %s }" % entry])
            subprocess.run(
                ["conntrack", "-D", "-p", "udp", "--orig-src", host, "--orig-port-src", str(port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
