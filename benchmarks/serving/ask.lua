-- One question a thread; counts the answers whose numbers are not the right ones.
-- Arguments after `--`: folder with N.body, N.answer and headers; the JSON key of the numbers, "" where they are binary.

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

local function contents(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local pattern, right
local known = {} -- numbers as sent -> whether they are right: each form is parsed once

function init(args)
  local folder, key = args[1], args[2] or ""
  wrong, failed = 0, 0
  for name, value in contents(folder .. "/headers"):gmatch("([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
  end
  wrk.method = "POST"
  wrk.body = contents(folder .. "/" .. number .. ".body")
  right = {}
  for value in contents(folder .. "/" .. number .. ".answer"):gmatch("%S+") do
    table.insert(right, tonumber(value))
  end
  pattern = key ~= "" and '"' .. key .. '"%s*:%s*%[+([^%]]*)%]' or nil
  sent = wrk.format()
end

function request()
  return sent
end

-- Kernels that are allowed to differ in the last bit of a sum differ by a step in the answer.
local function close(values)
  if #values ~= #right then return false end
  for i, value in ipairs(values) do
    if math.abs(value - right[i]) > 1 then return false end
  end
  return true
end

local function parsed(text)
  local values = {}
  if pattern then
    for value in text:gmatch("[^,%s]+") do table.insert(values, tonumber(value)) end
  else
    for i = 1, #text do
      local byte = text:byte(i)
      table.insert(values, byte < 128 and byte or byte - 256)
    end
  end
  return values
end

function response(status, headers, body)
  if status ~= 200 then
    failed = failed + 1
    why = why or status .. " " .. body:sub(1, 200)
    return
  end
  local text = pattern and body:match(pattern) or body:sub(-#right)
  local good = known[text or ""]
  if good == nil then
    good = text ~= nil and close(parsed(text))
    known[text or ""] = good
  end
  if not good then wrong = wrong + 1 end
end

function done(summary, latency)
  local wrong_in_all, failed_in_all = 0, 0
  for _, thread in ipairs(threads) do
    wrong_in_all = wrong_in_all + thread:get("wrong")
    failed_in_all = failed_in_all + thread:get("failed")
    if thread:get("why") then print("FAILED " .. thread:get("why"):gsub("%s+", " ")) end
  end
  local errors = summary.errors
  print(string.format(
    'RESULT {"answered": %d, "seconds": %f, "failed": %d, "lost": %d, "wrong": %d, "p50": %f, "p99": %f}',
    summary.requests, summary.duration / 1e6, failed_in_all,
    errors.connect + errors.read + errors.write + errors.timeout, wrong_in_all,
    latency:percentile(50), latency:percentile(99)))
end
