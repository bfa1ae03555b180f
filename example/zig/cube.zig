//! A module in Zig, served by a cweb whose operator allows ready shared objects. README.md has the commands.
//!
//! The structures are those of include/cweb.h and include/http.h; the server checks the size of `config` and the two version
//! numbers before it runs anything.

const std = @import("std");

/// What is checked and does not hold traps: the server takes that as a crash of the handler, and answers 500.
pub const panic = std.debug.no_panic;

/// The beginning of `http_request_t`: it is read behind a pointer only.
const Request = extern struct { method: c_int, version: c_int, status: c_int, path: [*:0]const u8 };

/// The beginning of `http_response_t`.
const Response = extern struct { status: c_int, headers: ?*anyopaque, body: [*]u8, content_length: c_int };

/// `entry_t`
const Handler = *const fn (?*anyopaque, *const Request, *Response) callconv(.c) c_int;

/// `route_info_t`
const Route = extern struct {
    path: ?[*:0]const u8 = null,
    method: ?[*:0]const u8 = null,
    handler: ?Handler = null,
    flags: c_int = 0,
    regex: [8]u64 = @splat(0),
    regex_compiled: c_int = 0,
};

/// `module_t`. What this module does not use are words of the right number.
const Module = extern struct {
    name: [128]u8,
    author: [128]u8,
    routes: [64]Route,
    size: c_int,
    websockets: [64 * 5]usize = @splat(0),
    ws_size: c_int = 0,
    jobs: [64 * 10]usize = @splat(0),
    job_size: c_int = 0,
    onload: usize = 0,
    unload: usize = 0,
    mounts: [16 * 2]usize = @splat(0),
    mount_size: c_int = 0,
    on_setting: usize = 0,
};

comptime {
    // As a C compiler lays them out for a 64-bit machine.
    std.debug.assert(@sizeOf(Module) == 14904 and @offsetOf(Module, "size") == 6912);
    std.debug.assert(@offsetOf(Module, "jobs") == 9488 and @offsetOf(Module, "mounts") == 14632);
    std.debug.assert(@offsetOf(Request, "path") == 16 and @offsetOf(Response, "body") == 16);
}

fn text(comptime value: []const u8) [128]u8 {
    var field: [128]u8 = @splat(0);
    @memcpy(field[0..value.len], value);
    return field;
}

/// The version of the interface (`CWEB_ABI_VERSION`), and what the functions of the module take: 3, the context first.
export const cweb_module_abi: u32 = 2;
export const cweb_module_api: u32 = 3;

/// The loader hands over the table of the server's functions (include/cweb_host.h), which this module does not use.
export fn cweb_bind_host(_: ?*const anyopaque, _: ?*const anyopaque) void {}

/// What the module serves.
export const config: Module = .{
    .name = text("cube"),
    .author = text("cweb"),
    .routes = [_]Route{.{ .path = "/zig/[0-9]+", .method = "GET", .handler = cube }} ++ @as([63]Route, @splat(.{})),
    .size = 1,
};

/// Bytes of the buffer that a response begins with (`HTTP_RESPONSE_SIZE`).
const response_bytes = 8 * 1024;

fn answer(path: []const u8, body: []u8) ![]u8 {
    const number = try std.fmt.parseInt(u64, path["/zig/".len..], 10);
    const squared = try std.math.mul(u64, number, number);
    return std.fmt.bufPrint(body, "{d}\n", .{try std.math.mul(u64, squared, number)});
}

fn cube(_: ?*anyopaque, request: *const Request, response: *Response) callconv(.c) c_int {
    const body = response.body[0..response_bytes];
    const written = answer(std.mem.span(request.path), body) catch {
        const refusal = "the number is too large\n";
        @memcpy(body[0..refusal.len], refusal);
        response.content_length = refusal.len;
        response.status = 422;
        return 0;
    };
    response.content_length = @intCast(written.len);
    response.status = 200;
    return 0;
}
