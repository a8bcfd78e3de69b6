-- Requests are given as they go out, and sent in turn: nobody may be quick because all are the same.
local requests = {${REQUESTS}}
local last = 0

request = function()
  last = last % #requests + 1
  return requests[last]
end

done = function(summary)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "bytes": %d, "errors": ' ..
    '{"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
