"""Filters of pcap-filter(7): every primitive that applies to Ethernet, every addressing mode and operation.

No filter here names a host, so none ever asks a name server.
"""

_PRIMITIVES = """
ether host 02:00:00:00:00:0a
ether src 02:00:00:00:00:0a
ether dst host 02:00:00:00:00:0b
not ether host 02:00:00:00:00:0a
ether broadcast
ether multicast
ether proto 0x88cc
ether proto \\arp
host 10.1.0.2
src host 10.1.0.2
dst host 10.1.0.3
src or dst host 10.1.0.3
src and dst host 10.1.0.3
ip host 10.1.0.3
arp host 10.1.0.3
arp dst host 10.1.0.3
rarp src host 0.0.0.0
ip6 host fd00:1::2
dst host fd00:1::3
host ::ffff:10.1.0.2
net 10.0.0.0/8
src net 10.1.0.0/16
dst net 10.1
net 10.1.0.0 mask 255.255.255.254
net 0.0.0.0/0
ip6 net fd00:1::/64
src net fe80::/10
net fd00:1::2/127
port 53
tcp port 80
udp port 0
udp dst port 4789
src port 40000
tcp src port 22
sctp port 5001
portrange 1-1024
udp dst portrange 5000-6100
src portrange 40000-40001
ip
ip6
arp
rarp
tcp
udp
sctp
icmp
icmp6
igmp
pim
vrrp
carp
ah
esp
ip proto 47
ip proto \\udp
ip6 proto 44
ip6 proto \\tcp
proto 17
ip protochain 6
ip6 protochain 6
ip6 protochain 17
protochain 58
ip multicast
ip6 multicast
less 60
greater 1000
len == 60
len > 60 and len <= 61
vlan
vlan 5
vlan 100 and vlan 5
vlan and tcp port 80
vlan and vlan and ip host 10.1.0.2
vlan 300 and vlan 200 and vlan 5 and tcp
not (vlan 5) and (tcp port 80)
(vlan 5 and arp) or (vlan 6 and ip6)
mpls
mpls 100
mpls 100 and mpls 1024 and host 10.1.0.2
mpls and ip6
pppoed
pppoes
pppoes 0x1234
pppoes and tcp port 80
vlan 7 and pppoes and host 10.1.0.3
geneve
geneve 10
geneve and tcp
llc
llc i
llc s
llc u
stp
isis
iso
clnp
iso proto 0x81
ipx
netbeui
atalk
aarp
decnet
lat
moprc
mopdl
"""

_ARITHMETIC = """
tcp[tcpflags] & tcp-syn != 0
tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0 and not src and dst net 10.0.0.0/8
tcp[13] = 24
tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)
tcp[tcpflags] & (tcp-urg|tcp-ece|tcp-cwr) != 0
icmp[icmptype] = icmp-echo
icmp[icmptype] == icmp-unreach and icmp[icmpcode] == 3
icmp6[icmp6type] == icmp6-neighborsolicit
icmp6[icmp6type] >= icmp6-routersolicit
ip[0] & 0xf != 5
ip[0] & 0xf > 5 and tcp
ip[6:2] & 0x1fff = 0
ip[6:2] & 0x3fff != 0
ip[8] < 2
ip[1] & 0x3 == 3
ip[2:2] > len - 14
ip[2:2] + 14 != len
ip6[6] == 0 or ip6[6] == 43
ip6[4:2] == 0
ip6[0:4] & 0xfffff = 0x12345
ether[0] & 1 = 0
ether[6:4] = 0x02000000
ether[12:2] <= 1500
ether[len - 1] = 0
ether[len - 4:4] & 0xff = 0xd9
ether[14] >> 4 = 4
ether[ether[14] & 0x3f] = 6
ether[65535] = 0
ether[0x7ffffff0:4] = 0
ether[0 - 1] = 0
udp[4:2] > 100
udp[8+4] & 1 = 0
udp[8:4] = 0x00070100
udp[udp[5]] != 0
udp[8 + (udp[9] & 7):2] > 0x100
tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420
tcp[(tcp[12] >> 4) * 4] = 0x16
sctp[12] = 0
arp[6:2] = 1
arp[14:4] = 0x0a010002
igmp[0] = 0x22
vlan and ether[14:2] & 0xfff = 5
len / 2 * 2 = len
len % 7 = 3
len % ip[1] = 0
len / ip[1] >= 0
len / (ip[8] - 64) < 1000
1000 / ip[8] = 15
len ^ 0x55 > 0x40
ip[12] ^ ip[16] = 0
ip[15] ^ ip[19] = 1
ip[8] << 2 = 256
(1 << (ip[8] & 63)) != 0
(0x80000000 >> ip[9]) > 0x100
(ip[9] << ip[8]) = 0
ip[9] >> (ip[8] >> 6) = 3
ip[9] | 1 = 17
ip[9] | ip[8] = 70
ip[8] & ip[9] = 0
ip[8] * ip[9] = 1088
ip[8] * 4 - ip[9] > 200
ip[9] - ip[8] > 0
-1 > ip[8]
-ip[8] < 0xffffff00
0 - ip[9] = 0xfffffffa
ip[8] + ip[9] > ip[17] + ip[18] + ip[19]
ip[8] > ip[9]
ip[8] >= ip[9]
ip[12:4] = ip[16:4]
ip[12:4] < ip[16:4]
ip[19] & ip[15] != 0
len != ip[2:2]
ether[0:2] * ether[2:2] + ether[4:2] * ether[6:2] - ether[8:2] * ether[10:2] > len
"""

_COMPOUND = (
    "tcp port 80 or udp port 53 or icmp",
    "net 10.0.0.0/8 and tcp port 443 and not host 10.0.0.5",
    "not (tcp or udp or arp) and not ip6",
    "(ip or ip6) and not (port 53 or port 123) and greater 100",
    "tcp and (dst port 80 or 443 or 8080) and host 10.1.0.3 and ip[8] > 1",
    "host 10.1.0.2 or host 10.1.0.3 or net fd00:1::/64 or ether proto 0x88cc or vlan",
    "(vlan 5 and (tcp port 80 or arp)) or (vlan 100 and vlan 5 and udp) or mpls 100",
    " or ".join(f"port {port}" for port in range(8000, 8020)),
    " or ".join(f"tcp dst port {port}" for port in range(40, 90, 2)),
    " or ".join(f"net 10.{octet}.0.0/16" for octet in range(16)),
)


FILTERS: tuple[str, ...] = (*_PRIMITIVES.strip().split("\n"), *_ARITHMETIC.strip().split("\n"), *_COMPOUND)
