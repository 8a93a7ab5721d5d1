// The errors that callers meet.

/** An error with a stable `code`. */
export class QLlamaError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.name = 'QLlamaError';
    this.code = code;
  }
}

export const wrong = (message) => new QLlamaError('E_INPUT', message);
