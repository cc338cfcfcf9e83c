-- What gateways count for one key; every call is atomic.
-- KEYS: 1 leases (hash: lease -> its reservation; sums; who overdraws), 2 ends of leases (sorted set),
--       3 used today, 4 used this month (hashes of tokens and cost), 5 limits per minute, 6 mark of a settled lease
-- ARGV: 1 operation, then its own arguments

local clock = redis.call('TIME')  -- one clock for all gateways
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local BUDGETS = {  -- in the order of the arguments: where the use is kept, and its unit
  {3, 'tokens'}, {4, 'tokens'}, {3, 'cost'}, {4, 'cost'},
}
local USE_KEPT_S, LEASES_KEPT_S = 40 * 86400, 86400

local function read(key, field) return tonumber(redis.call('HGET', key, field) or '0') end
local function add(key, field, amount)
  if amount ~= 0 then redis.call('HINCRBYFLOAT', key, field, string.format('%.17g', amount)) end
end
local function hold_of(lease)
  local stored = redis.call('HGET', KEYS[1], 'lease:' .. lease)
  return stored and cjson.decode(stored)
end

-- Set what a lease reserves, and what its finished calls have used.
local function put(lease, hold, lease_s)
  local before = hold_of(lease) or {tokens = 0, cost = 0}
  add(KEYS[1], 'tokens', hold.tokens - before.tokens)
  add(KEYS[1], 'cost', hold.cost - before.cost)
  redis.call('HSET', KEYS[1], 'lease:' .. lease, cjson.encode(hold))
  redis.call('ZADD', KEYS[2], string.format('%.6f', now + lease_s), lease)
  redis.call('EXPIRE', KEYS[1], LEASES_KEPT_S)
  redis.call('EXPIRE', KEYS[2], LEASES_KEPT_S)
end

-- Free what a lease reserves; returns it, or nil if there is no such lease.
local function drop(lease)
  local hold = hold_of(lease)
  redis.call('ZREM', KEYS[2], lease)
  if not hold then return nil end
  redis.call('HDEL', KEYS[1], 'lease:' .. lease)
  add(KEYS[1], 'tokens', -hold.tokens)
  add(KEYS[1], 'cost', -hold.cost)
  for index = 1, #BUDGETS do
    if redis.call('HGET', KEYS[1], 'over:' .. index) == lease then redis.call('HDEL', KEYS[1], 'over:' .. index) end
  end
  if redis.call('ZCARD', KEYS[2]) == 0 then redis.call('DEL', KEYS[1]) end  -- rounding errors do not add up
  return hold
end

local function charge(tokens, cost)
  for _, key in ipairs({KEYS[3], KEYS[4]}) do
    add(key, 'tokens', math.max(0, tokens))
    add(key, 'cost', math.max(0, cost))
    redis.call('EXPIRE', key, USE_KEPT_S)
  end
end

-- Leases whose process no longer renews them are freed, and what it has reported of them is charged.
local function expire()
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.6f', now))) do
    local hold = drop(lease)
    if hold then charge(hold.spent_tokens, hold.spent_cost) end
  end
end

-- The use of a budget, its limit (nil: none), and all that is reserved of it.
local function budget(index, first)
  local where, unit = KEYS[BUDGETS[index][1]], BUDGETS[index][2]
  return read(where, unit), tonumber(ARGV[first + index - 1]), read(KEYS[1], unit), unit
end

-- The index of the first budget that is used up; 0: none.
local function used_up(first)
  for index = 1, #BUDGETS do
    local used, most = budget(index, first)
    if most and used >= most then return index end
  end
  return 0
end

-- A limit per minute as a bucket that refills steadily: what is left of it.
local function left_of(what, most)
  if not most then return 0 end
  if read(KEYS[5], what .. '_most') ~= most then return most end
  return math.min(most, read(KEYS[5], what) + (now - read(KEYS[5], what .. '_at')) * most / 60)
end
local function set_left(what, most, left)
  redis.call('HSET', KEYS[5], what, string.format('%.17g', left), what .. '_at', string.format('%.6f', now),
    what .. '_most', most)
  redis.call('EXPIRE', KEYS[5], 60 + math.ceil(math.max(0, most - left) * 60 / most))
end

local operations = {}

-- ARGV: 2-5 budgets, 6 requests per minute, 7 tokens per minute. Counts a request unless a limit is reached.
function operations.enter()
  expire()
  local requests, tokens = tonumber(ARGV[6]), tonumber(ARGV[7])
  local left = {left_of('requests', requests), left_of('tokens', tokens)}
  local result, which = 'ok', used_up(2)
  if which > 0 then
    result = 'used'
  elseif requests and left[1] < 1 then
    result, which = 'rate', 1
  elseif tokens and left[2] < 1 then
    result, which = 'rate', 2
  elseif requests then
    left[1] = left[1] - 1
    set_left('requests', requests, left[1])
  end
  return {result, which, string.format('%.17g', left[1]), string.format('%.17g', left[2])}
end

-- ARGV: 2-5 budgets, 6 lease, 7 tokens, 8 cost, 9 seconds. Admitted while use and reservations are below all budgets.
function operations.reserve()
  expire()
  local lease, wanted = ARGV[6], {tokens = tonumber(ARGV[7]), cost = tonumber(ARGV[8])}
  if redis.call('EXISTS', KEYS[6]) == 1 or hold_of(lease) then return {'ok', 0} end
  local which = used_up(2)
  if which > 0 then return {'used', which} end
  local over = {}
  for index = 1, #BUDGETS do
    local used, most, held, unit = budget(index, 2)
    if most and used + held >= most then return {'held', index} end
    if most and used + held + wanted[unit] > most then over[#over + 1] = index end
  end
  put(lease, {tokens = wanted.tokens, cost = wanted.cost, spent_tokens = 0, spent_cost = 0}, tonumber(ARGV[9]))
  for _, index in ipairs(over) do redis.call('HSET', KEYS[1], 'over:' .. index, lease) end
  return {'ok', 0}
end

-- ARGV: as reserve, with all that the lease is to hold. Of each budget only one lease may hold more than is left.
function operations.extend()
  expire()
  local lease, wanted = ARGV[6], {tokens = tonumber(ARGV[7]), cost = tonumber(ARGV[8])}
  local now_held = hold_of(lease) or {tokens = 0, cost = 0, spent_tokens = 0, spent_cost = 0}
  local over = {}
  for index = 1, #BUDGETS do
    local used, most, held, unit = budget(index, 2)
    if most and wanted[unit] > now_held[unit] then
      local owner = redis.call('HGET', KEYS[1], 'over:' .. index)
      local others = held - now_held[unit]
      if owner and owner ~= lease then
        local theirs = hold_of(owner)
        if used + others - (theirs and theirs[unit] or 0) + wanted[unit] > most then return {'held', index} end
      elseif used + others + wanted[unit] > most then
        if used + others >= most then return {'held', index} end
        over[#over + 1] = index
      end
    end
  end
  wanted.spent_tokens, wanted.spent_cost = now_held.spent_tokens, now_held.spent_cost
  put(lease, wanted, tonumber(ARGV[9]))
  for _, index in ipairs(over) do redis.call('HSET', KEYS[1], 'over:' .. index, lease) end
  return {'ok', 0}
end

-- ARGV: 2 seconds, then for each lease: its id, and the tokens and cost that its finished calls have used.
function operations.renew()
  for index = 3, #ARGV, 3 do
    local hold = hold_of(ARGV[index])
    if hold then
      hold.spent_tokens, hold.spent_cost = tonumber(ARGV[index + 1]), tonumber(ARGV[index + 2])
      put(ARGV[index], hold, tonumber(ARGV[2]))
    end
  end
  expire()
  return {'ok', 0}
end

-- ARGV: 2 lease, 3 tokens and 4 cost used, 5 tokens and 6 cost of them that were reported, 7 tokens per minute,
-- 8 seconds for which the mark is kept. A lease that has expired was charged what was reported.
function operations.settle()
  if not redis.call('SET', KEYS[6], '1', 'NX', 'EX', ARGV[8]) then return {'ok', 0} end
  expire()
  local tokens, cost = tonumber(ARGV[3]), tonumber(ARGV[4])
  local most = tonumber(ARGV[7])
  if most then set_left('tokens', most, left_of('tokens', most) - tokens) end
  if drop(ARGV[2]) then
    charge(tokens, cost)
  else
    charge(tokens - tonumber(ARGV[5]), cost - tonumber(ARGV[6]))
  end
  return {'ok', 0, string.format('%.17g', left_of('tokens', most))}
end

return operations[ARGV[1]]()
