-- wrk's requests: registrations, of which a share are new push tokens and the rest refreshes.
-- Arguments: the file of known registrations, the share of new ones (0 to 1).

local known = {}
local share, sent
made = 0 -- global, so that done() can read it

local function draw(length)
  local parts = {}
  for part = 1, math.ceil(length / 7) do
    parts[part] = string.format("%07x", math.random(0, 0xfffffff))
  end
  return string.sub(table.concat(parts), 1, length)
end

function setup(thread)
  threads = threads or {}
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  math.randomseed(os.time() * 100 + number)
  for line in io.lines(args[1]) do
    local user, auth, kind, value = line:match("(%S+) (%S+) (%S+) (%S+)")
    table.insert(known, { user = user, auth = auth, kind = kind, value = value })
  end
  share, sent = tonumber(args[2]), 0
end

function request()
  local one = known[math.random(#known)]
  local value = one.value
  sent = sent + 1
  if made < share * sent then
    made = made + 1
    value = draw(#value)
  end
  local headers = {
    ["Content-Type"] = "application/json",
    ["X-User-Id"] = one.user,
    ["X-Auth-Token"] = one.auth,
  }
  local body = '{"type":"' .. one.kind .. '","value":"' .. value .. '","appName":"chat.example"}'
  return wrk.format("POST", "/api/v1/push.token", headers, body)
end

function done(summary, latency)
  local new = 0
  for _, thread in ipairs(threads) do
    new = new + thread:get("made")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"not_2xx":%d,"broken":%d,"new":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, new
  ))
end
