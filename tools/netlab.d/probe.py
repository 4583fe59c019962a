"""UDP and TCP sockets in the namespaces of a lab, and what they find out about a NAT.

Everything is in one process: packets carry a tag, so that a late one of an earlier question harms nobody.
"""

import contextlib
import os
import re
import select
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request

import space

ANSWER_SECONDS = 0.5
TRIES = 3


class Udp:
    """One UDP socket on a host of the lab."""

    def __init__(self, lab, host, family=socket.AF_INET, port=0):
        with space.inside(lab.space(host)):
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]

    def send(self, to, data):
        with contextlib.suppress(
            OSError
        ):  # an ICMP answer to an earlier packet, or no route: both are silence
            self.socket.sendto(data, to)

    def wait(self, data, seconds=ANSWER_SECONDS):
        """Source address of the packet that holds exactly data, or None."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            with contextlib.suppress(OSError):
                got, source = self.socket.recvfrom(2048)
                if got == data:
                    return source[:2]

    def count(self, beginning, seconds):
        """How many packets that begin so come until none has for this long."""
        got = 0
        while select.select([self.socket], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                got += self.socket.recvfrom(2048)[0].startswith(beginning)
        return got

    def close(self):
        self.socket.close()


def ask(sender, receiver, to):
    """Sends until it arrives; returns how the sender looks from there, or None."""
    for _ in range(TRIES):
        tag = os.urandom(8)
        sender.send(to, tag)
        seen = receiver.wait(tag)
        if seen:
            return seen
    return None


def arrives(sender, receiver, to):
    """Whether one unasked-for packet gets in.  Sent once: a second could profit from the first."""
    tag = os.urandom(8)
    sender.send(to, tag)
    return receiver.wait(tag) is not None


class Observers:
    """Two public hosts with two ports each, in IPv4 or IPv6."""

    def __init__(self, lab, names, family=socket.AF_INET):
        key = "wan6" if family == socket.AF_INET6 else "wan4"
        self.at = [lab.site(names[i])[key] for i in (0, 0, 1, 1)]
        self.sockets = [Udp(lab, names[i], family) for i in (0, 0, 1, 1)]

    def address(self, index):
        return (self.at[index], self.sockets[index].port)

    def close(self):
        for one in self.sockets:
            one.close()


def mapping_of(sources):
    """Word for how four destinations (two ports of two hosts) saw one socket."""
    if any(source is None for source in sources):
        return None
    if len(set(sources)) == 1:
        return "EI"
    if sources[0] == sources[1] and sources[2] == sources[3]:
        return "AD"
    return "APD"


def examine(lab, host, names, family=socket.AF_INET):
    """Mapping and filtering of the routers before a host: {"mapping", "filtering", "ports", "local"}.

    Filtering is asked of a fresh socket that spoke to one port of one observer only: from nobody else's
    address first, since that answer may not depend on the other."""
    observers = Observers(lab, names, family)
    one, two = Udp(lab, host, family), Udp(lab, host, family)
    try:
        seen = [ask(one, observers.sockets[i], observers.address(i)) for i in range(4)]
        outside = ask(two, observers.sockets[0], observers.address(0))
        filtering = None
        if outside:
            stranger = arrives(observers.sockets[2], two, outside)
            neighbour = arrives(observers.sockets[1], two, outside)
            known = arrives(observers.sockets[0], two, outside)
            filtering = "EI" if stranger else "AD" if neighbour else "APD" if known else "closed"
        return {
            "mapping": mapping_of(seen),
            "filtering": filtering,
            "local": one.port,
            "ports": [source[1] if source else None for source in seen],
        }
    finally:
        for socket_of in (observers, one, two):
            socket_of.close()


LISTENING = threading.Lock()


def tcp_connects(lab, host, server, port):
    """Whether a TCP connection to a public host comes about.  One asks at a time: the port is there once."""
    with LISTENING:
        return tcp_connects_alone(lab, host, server, port)


def tcp_connects_alone(lab, host, server, port):
    with space.inside(lab.space(server)):
        listener = socket.create_server((lab.site(server)["wan4"], port), backlog=64)
    with space.inside(lab.space(host)):
        client = socket.socket()
    client.settimeout(1.5)
    try:
        client.connect((lab.site(server)["wan4"], port))
        return True
    except OSError:
        return False
    finally:
        client.close()
        listener.close()


def router_answers(lab, host, names):
    """Whether a stranger's packet is input that the router refuses aloud, as the kind masqopen does."""
    observers = Observers(lab, names)
    inner = Udp(lab, host)
    try:
        outside = ask(inner, observers.sockets[0], observers.address(0))
        if not outside:
            return False
        with space.inside(lab.space(names[1])):
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stranger.settimeout(ANSWER_SECONDS)
        with contextlib.closing(stranger):
            stranger.connect((outside[0], outside[1]))
            stranger.send(b"anyone there?")
            try:
                stranger.recv(100)
            except ConnectionRefusedError:
                return True
            except OSError:
                pass
        return False
    finally:
        observers.close()
        inner.close()


def map_port(lab, host, protocol, port, seconds=120):
    """Asks the home's router for an external UDP port; returns (address, port).  OSError: it gave none."""
    gateway = lab.site(host)["lan4"] + ".1"
    if protocol == "upnp":
        with space.inside(lab.space(host)):
            return map_upnp(lab.host_address(host), port, seconds)
    asking = Udp(lab, host)
    asking.socket.setblocking(True)
    asking.socket.settimeout(5)
    try:
        asking.socket.connect((gateway, 5351))
        return (
            map_natpmp(asking.socket, port, seconds)
            if protocol == "natpmp"
            else map_pcp(asking.socket, lab.host_address(host), port, seconds)
        )
    finally:
        asking.close()


def map_natpmp(asking, port, seconds):
    """RFC 6886 s.3.2 and s.3.3."""
    asking.send(struct.pack("!BB", 0, 0))
    answer = asking.recv(100)
    if answer[:4] != b"\0\x80\0\0":
        raise OSError("NAT-PMP refused to tell its address: %s" % answer.hex())
    outside = socket.inet_ntoa(answer[8:12])
    asking.send(struct.pack("!BBHHHI", 0, 1, 0, port, port, seconds))
    answer = asking.recv(100)
    if answer[:4] != b"\0\x81\0\0":
        raise OSError("NAT-PMP refused to map: %s" % answer.hex())
    return outside, struct.unpack("!H", answer[10:12])[0]


def map_pcp(asking, own, port, seconds):
    """RFC 6887 s.7.1 and s.11.1."""
    mapped = b"\0" * 10 + b"\xff\xff"
    asking.send(
        struct.pack("!BBHI", 2, 1, 0, seconds)
        + mapped
        + socket.inet_aton(own)
        + os.urandom(12)
        + struct.pack("!B3xHH", 17, port, port)
        + mapped
        + b"\0" * 4
    )
    answer = asking.recv(1100)
    if answer[:2] != b"\x02\x81" or answer[3] != 0:
        raise OSError("PCP refused: %s" % answer.hex())
    return socket.inet_ntoa(answer[56:60]), struct.unpack("!H", answer[42:44])[0]


WAN_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
# Proxies of this machine's environment are not in the lab.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def map_upnp(own, port, seconds):
    """UPnP Device Architecture 1.1 s.1.3 (search), then SOAP to the WANIPConnection service."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(5)
    with contextlib.closing(asking):
        asking.sendto(
            (
                'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
                "ST: %s\r\n\r\n" % WAN_SERVICE
            ).encode(),
            ("239.255.255.250", 1900),
        )
        answer = asking.recv(2048).decode()
    place = next(
        line.split(":", 1)[1].strip() for line in answer.splitlines() if line.lower().startswith("location:")
    )
    described = HTTP.open(place, timeout=5).read().decode()
    found = re.search(r"urn:schemas-upnp-org:service:WANIPConnection:[12]", described)
    if not found:
        raise OSError("the gateway describes no WANIPConnection: %s" % described[:500])
    service = described[found.start() :]
    control = urllib.parse.urljoin(place, between(service, "<controlURL>", "</controlURL>"))
    outside = between(soap(control, "GetExternalIPAddress", ""), "<NewExternalIPAddress>", "<")
    soap(
        control,
        "AddPortMapping",
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>%d</NewExternalPort>"
        "<NewProtocol>UDP</NewProtocol><NewInternalPort>%d</NewInternalPort>"
        "<NewInternalClient>%s</NewInternalClient><NewEnabled>1</NewEnabled>"
        "<NewPortMappingDescription>verify</NewPortMappingDescription>"
        "<NewLeaseDuration>%d</NewLeaseDuration>" % (port, port, own, seconds),
    )
    return outside, port


def soap(url, action, arguments):
    body = (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:%s xmlns:u="%s">%s</u:%s>'
        "</s:Body></s:Envelope>" % (action, WAN_SERVICE, arguments, action)
    )
    request = urllib.request.Request(
        url, body.encode(), {"Content-Type": "text/xml", "SOAPAction": '"%s#%s"' % (WAN_SERVICE, action)}
    )
    return HTTP.open(request, timeout=5).read().decode()


def between(text, before, after):
    return text.split(before, 1)[1].split(after, 1)[0]
