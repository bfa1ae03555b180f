-- The requests of bench/run: wrk … -- KIND [N]
--   get; pipelined N: N requests in one write; browser: with twelve header fields; post N: a body of N bytes
-- The last line is for bench/run: requests, microseconds, errors, percentiles in microseconds.
local browser = {
    ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ["Accept-Encoding"] = "identity",
    ["Accept-Language"] = "en-GB,en;q=0.9",
    ["Cache-Control"] = "max-age=0",
    ["Sec-Fetch-Dest"] = "document",
    ["Sec-Fetch-Mode"] = "navigate",
    ["Sec-Fetch-Site"] = "none",
    ["Sec-Fetch-User"] = "?1",
    ["Upgrade-Insecure-Requests"] = "1",
    ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    ["Cookie"] = "session=0123456789abcdef; theme=dark",
}
local made
init = function(args)
    local kind, n = args[1] or "get", tonumber(args[2] or "1")
    if kind == "pipelined" then
        made = string.rep(wrk.format("GET", nil), n)
    elseif kind == "browser" then
        made = wrk.format("GET", nil, browser)
    elseif kind == "post" then
        made = wrk.format("POST", nil, { ["Content-Type"] = "application/octet-stream" }, string.rep("x", n))
    else
        made = wrk.format("GET", nil)
    end
end
request = function()
    return made
end
done = function(summary, latency)
    local e = summary.errors
    print(string.format("RESULT %d %d %d %d %d %d", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.status + e.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
