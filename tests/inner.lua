-- For tshark: prints one line per frame that carries a tunnelled Ethernet frame, as tshark's own dissectors place it.
--   number kind key inner-offset source-port ip-id ttl dscp ip-length do-not-fragment udp-checksum flags hex
-- The bytes are taken from where the second `eth` lies to the end of the outer IP packet, reassembled where it came
-- in fragments. Absent values are "-".
local names = {
	"frame.protocols", "eth", "ip", "ip.id", "ip.ttl", "ip.dsfield.dscp", "ip.len", "ip.flags.df", "ip.proto",
	"udp.srcport", "udp.checksum", "vxlan.vni", "vxlan.flags", "gre.key", "gre.flags_and_version",
}
local fields = {}
for _, name in ipairs(names) do
	fields[name] = Field.new(name)
end

local function first(name)
	local info = fields[name]()
	return info and tostring(info.value) or "-"
end

-- The tunnel is the first protocol above the outer IP, or, over UDP, the one above that.
local function tunnel(protocols)
	local above = protocols:match("^eth:ethertype:ip:udp:(%w+):eth") or protocols:match("^eth:ethertype:ip:(gre):eth")
	return above or protocols:match("^eth:ethertype:vlan:ethertype:ip:udp:(%w+):eth")
end

local inner = Proto("inner", "Tunnelled Ethernet frames")
function inner.dissector(tvb, pinfo)
	local kind = tunnel(first("frame.protocols"))
	local places = { fields["eth"]() }
	if not kind or not places[2] then
		return
	end
	local source, start = places[2].source, places[2].offset
	local finish = source:len()
	if finish == tvb:len() then -- the frame itself, with what a short one was padded with
		finish = fields["ip"]().offset + tonumber(first("ip.len"))
	end
	local key, flags = first("vxlan.vni"), first("vxlan.flags")
	if kind == "gre" then
		flags = first("gre.flags_and_version")
		key = math.floor(tonumber(flags) / 0x2000) % 2 == 1 and first("gre.key") or "-"
	end
	local port = kind == "gre" and "-" or first("udp.srcport")
	local checksum = kind == "gre" and "-" or first("udp.checksum")
	print(table.concat({
		pinfo.number, kind, key, start, port, first("ip.id"), first("ip.ttl"), first("ip.dsfield.dscp"),
		first("ip.len"), first("ip.flags.df"), checksum, flags, source:range(start, finish - start):bytes():tohex(),
	}, " "))
end
register_postdissector(inner, true)
