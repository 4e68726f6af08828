-- wrk's requests: registrations, of which a share are new push tokens and the rest refreshes.
-- Arguments: the file of known registrations, the share of new ones (0 to 1), and of the
-- registrations with a device id the share that are rotations: a known device's new push token.
-- Each rotation is appended to the file, so that the next run knows it. For one thread of wrk.

made = 0 -- global, so that done() can read it
local known, file, share, turns, sent

local function draw(length)
  local parts = {}
  for part = 1, math.ceil(length / 7) do
    parts[part] = string.format("%07x", math.random(0, 0xfffffff))
  end
  return string.sub(table.concat(parts), 1, length)
end

-- A push token as rig.push_token makes them.
local function draw_value(kind)
  if kind == "apn" then
    return draw(64)
  end
  return draw(22) .. ":APA91b" .. draw(134)
end

-- A device id as rig.device_id makes them.
local function draw_id(kind)
  if kind == "gcm" then
    return draw(16)
  end
  return string.upper(table.concat({ draw(8), draw(4), draw(4), draw(4), draw(12) }, "-"))
end

function setup(thread)
  the_thread = thread
end

function init(args)
  math.randomseed(os.time())
  local places = {} -- of a device that comes again the last line counts
  known = {}
  for line in io.lines(args[1]) do
    local user, auth, kind, value, id = line:match("(%S+) (%S+) (%S+) (%S+) (%S+)")
    local device = (id == "-" and value or id) .. auth
    places[device] = places[device] or #known + 1
    known[places[device]] = { user = user, auth = auth, kind = kind, value = value, id = id }
  end
  file = io.open(args[1], "a")
  file:setvbuf("line")
  share, sent = tonumber(args[2]), 0
  -- Only what is not new can be one.
  turns = math.min(1, tonumber(args[3]) / (1 - share))
end

function request()
  local one = known[math.random(#known)]
  local value, id = one.value, one.id
  sent = sent + 1
  if made < share * sent then
    made = made + 1
    value = draw_value(one.kind)
    id = id == "-" and id or draw_id(one.kind)
  elseif id ~= "-" and math.random() < turns then
    value = draw_value(one.kind)
    one.value = value
    file:write(table.concat({ one.user, one.auth, one.kind, value, id }, " "), "\n")
  end
  local headers = {
    ["Content-Type"] = "application/json",
    ["X-User-Id"] = one.user,
    ["X-Auth-Token"] = one.auth,
  }
  local body = '{"type":"' .. one.kind .. '","value":"' .. value .. '","appName":"chat.example"'
  if id ~= "-" then
    body = body .. ',"id":"' .. id .. '"'
  end
  return wrk.format("POST", "/api/v1/push.token", headers, body .. "}")
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"not_2xx":%d,"broken":%d,"new":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, the_thread:get("made")
  ))
end
