-- Wireshark and tshark: what a copy's GENEVE options say (docs/geneve-options.md), as fields to show and to filter by.
-- Copy it to the folder for personal Lua plugins (Help > About > Folders), or: tshark -X lua_script:sniffer.lua
--
-- Names travel as CRC-32. Those that are listed in the preference "names" (sniffer.names: "n1 shop/web /edge", nodes and
-- mirrors, apart by spaces) are shown by name.
local sniffer = Proto("sniffer", "sniffer: copy of a frame")
local DIRECTIONS = { [0] = "unknown", [1] = "ingress", [2] = "egress" }
local fields = {
	node = ProtoField.uint32("sniffer.node", "Node (CRC-32 of its name)", base.HEX),
	mirror = ProtoField.uint32("sniffer.mirror", "Mirror (CRC-32 of namespace/name)", base.HEX),
	direction = ProtoField.uint32("sniffer.direction", "Direction", base.DEC, DIRECTIONS),
	length = ProtoField.uint32("sniffer.original_length", "Original length"),
	sampling = ProtoField.uint32("sniffer.sampling", "One frame in"),
	node_name = ProtoField.string("sniffer.node_name", "Node"),
	mirror_name = ProtoField.string("sniffer.mirror_name", "Mirror"),
}
sniffer.fields = fields
sniffer.prefs.names = Pref.string("Names of nodes and mirrors", "", "As in: n1 shop/web /edge")

local CLASS, ORDER = 0xff53, { fields.node, fields.mirror, fields.direction, fields.length, fields.sampling }
local NAMES = { fields.node_name, fields.mirror_name }
local classes, kinds = Field.new("geneve.option.class"), Field.new("geneve.option.type")

-- CRC-32 of zlib; bit operations of Lua 5.1 to 5.4 differ, Wireshark's own `bit` is in all but the newest.
local function crc32(text)
	local band, bxor, rshift
	if bit then
		band, bxor, rshift = bit.band, bit.bxor, bit.rshift
	else
		local make = load("return function(a, b) return a & b end, function(a, b) return a ~ b end, "
			.. "function(a, b) return (a & 0xffffffff) >> b end")
		band, bxor, rshift = make()
	end
	local crc = 0xffffffff
	for at = 1, #text do
		crc = bxor(crc, text:byte(at))
		for _ = 1, 8 do
			crc = bxor(rshift(crc, 1), band(crc, 1) == 1 and 0xedb88320 or 0)
		end
	end
	return bxor(crc, 0xffffffff) % 0x100000000
end

local known, listed = {}, nil
local function name_of(number)
	if listed ~= sniffer.prefs.names then
		listed, known = sniffer.prefs.names, {}
		for word in listed:gmatch("%S+") do
			known[crc32(word)] = word
		end
	end
	return known[number]
end

function sniffer.dissector(tvb, pinfo, root)
	local types = { kinds() }
	local tree
	for at, class in ipairs({ classes() }) do
		local kind = types[at]
		local field = class.value == CLASS and kind and ORDER[kind.value]
		local body = field and class.source:range(class.offset + 4, 4)
		if body then
			tree = tree or root:add(sniffer)
			tree:add(field, body)
			local name = NAMES[kind.value] and name_of(body:uint())
			if name then
				tree:add(NAMES[kind.value], body, name):set_generated()
			end
		end
	end
end
register_postdissector(sniffer)
