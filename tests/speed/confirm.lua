-- What wrk sends: every request confirms something that was never confirmed before.
--
-- Arguments, behind the URL and `--`: the first number, how many numbers each thread has, whether
-- each request is the last one of its connection, and, for bodies that were encrypted beforehand,
-- the beginning of their files' names; each thread reads a file of its own, one body a line.

local threads = 0
local number, bodies

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  wrk.method = "POST"
  number = tonumber(args[1]) + id * tonumber(args[2])
  if args[3] == "close" then
    wrk.headers["Connection"] = "close"
  end
  if args[4] then
    bodies = io.lines(args[4] .. id)
  end
end

-- Contract numbers come in no order, and none twice: 38183291 and 10^8 have no common factor. All
-- products stay below 2^53, up to where Lua's numbers are exact.
local function body()
  number = number + 1
  return string.format(
    '{"userName":"till-7","action":"collectionCollect","authentication":"key",' ..
      '"contractNumber":"SKY01%08d","amount":"%d.%02d","phone":"09%09d",' ..
      '"receiptNumber":"%012X","collectedTime":"2026-11-21 17:52:10","payChannel":"10"}',
    number * 38183291 % 100000000, 1 + number % 9000, number % 100,
    number * 7654321 % 1000000000, number * 7654321)
end

function request()
  return wrk.format(nil, nil, nil, bodies and (bodies() or "") or body())
end

-- Times are in microseconds.
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("figures %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
