-- For tshark: prints one line per frame that carries a tunnelled Ethernet frame, as tshark's own dissectors place it.
--   number kind key inner-offset source-port ip-id ttl dscp ip-length do-not-fragment udp-checksum flags words hex
-- The bytes are taken from where the second `eth` lies to the end of the outer IP packet, reassembled where it came
-- in fragments. Absent values are "-". words: what else the tunnel's header says, as name=value,name=value.
local names = {
	"frame.protocols", "eth", "ip", "ip.id", "ip.ttl", "ip.dsfield.dscp", "ip.len", "ip.flags.df", "ip.proto",
	"ipv6", "ipv6.hlim", "ipv6.tclass.dscp", "ipv6.plen", "ipv6.flow", "ipv6.fraghdr.ident",
	"udp.srcport", "udp.checksum", "udp.checksum.status", "vxlan.vni", "vxlan.flags", "gre.key", "gre.flags_and_version",
	"gre.sequence_number", "geneve.vni", "geneve.proto_type", "geneve.options", "erspan.version", "erspan.spanid",
	"erspan.truncated", "erspan.vlan", "erspan.cos", "erspan.encap", "erspan.index", "erspan.timestamp", "erspan.gra",
	"erspan.direction", "erspan.p", "erspan.bso",
}
local fields = {}
for _, name in ipairs(names) do
	fields[name] = Field.new(name)
end

local function first(name)
	local info = fields[name]()
	if not info then
		return "-"
	end
	if type(info.value) == "boolean" then
		return info.value and "1" or "0"
	end
	return tostring(info.value)
end

-- IP version and tunnel: the first protocol above the outer IP, or, over UDP, the one above that.
local function tunnel(protocols)
	local version, above = protocols:gsub(":vlan:ethertype", "", 1):match("^eth:ethertype:(ipv?6?):(.*)$")
	if not above then
		return
	end
	above = above:gsub("^ipv6.fraghdr:", "")
	return version, above:match("^udp:(%w+):eth") or above:match("^gre:(erspan):eth") or above:match("^(gre):eth")
end

local WORDS = {
	erspan = {
		"gre.sequence_number", "erspan.version", "erspan.truncated", "erspan.vlan", "erspan.cos", "erspan.encap",
		"erspan.index", "erspan.timestamp", "erspan.gra", "erspan.direction", "erspan.p", "erspan.bso",
	},
	gre = { "gre.sequence_number" },
	geneve = { "geneve.proto_type", "geneve.options", "udp.checksum.status" },
	vxlan = { "udp.checksum.status" },
}
local KEYS = { vxlan = "vxlan.vni", geneve = "geneve.vni", gre = "gre.key", erspan = "erspan.spanid" }

local inner = Proto("inner", "Tunnelled Ethernet frames")
function inner.dissector(tvb, pinfo)
	local version, kind = tunnel(first("frame.protocols"))
	local places = { fields["eth"]() }
	if not kind or not KEYS[kind] or not places[2] then
		return
	end
	local six, over_udp = version == "ipv6", kind == "vxlan" or kind == "geneve"
	local source, start = places[2].source, places[2].offset
	local finish = source:len()
	local length = six and tonumber(first("ipv6.plen")) + 40 or tonumber(first("ip.len"))
	if finish == tvb:len() then -- the frame itself, with what a short one was padded with
		finish = fields[version]().offset + length
	end
	local key, flags = first(KEYS[kind]), over_udp and first("vxlan.flags") or first("gre.flags_and_version")
	if kind == "gre" then
		key = math.floor(tonumber(flags) / 0x2000) % 2 == 1 and key or "-"
	end
	local words = {}
	for _, name in ipairs(WORDS[kind] or {}) do
		table.insert(words, name .. "=" .. first(name))
	end
	if six then
		table.insert(words, "ipv6.flow=" .. first("ipv6.flow"))
	end
	print(table.concat({
		pinfo.number, kind, key, start, over_udp and first("udp.srcport") or "-",
		six and first("ipv6.fraghdr.ident") or first("ip.id"), first(six and "ipv6.hlim" or "ip.ttl"),
		first(six and "ipv6.tclass.dscp" or "ip.dsfield.dscp"), length, six and "-" or first("ip.flags.df"),
		over_udp and first("udp.checksum") or "-", flags, #words > 0 and table.concat(words, ",") or "-",
		source:range(start, finish - start):bytes():tohex(),
	}, " "))
end
register_postdissector(inner, true)
